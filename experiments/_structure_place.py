"""Half of ``experiments.structure_report``: do rank bottlenecks place patches and layers better?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import jaxnet
from experiments._structure_predict import TOLERANCE, along, spec_of
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option

RULES = ("bottleneck", "extrema", "reach", "random")
"""Rules that say where a patch goes."""

CHOICES = ("bottleneck", "extrema", "random")
"""Rules that say behind which hidden layer a new one goes."""


@dataclass(frozen=True)
class PlaceConfig(lab.RunFlags, lab.TrainFlags, lab.SeedFlags, lab.NetworkFlags, lab.DataFlags):
    """Trained scaffolds that get patches, or a layer, at places that different rules choose."""

    scaffold_epochs: int = option(10, "before anything is added", "epochs", least=1)
    added_epochs: int = option(10, "with what was added", "epochs", least=1)
    max_patches: int = option(5, "patches per hidden layer and side", least=1)
    extrema_samples: int = option(3000, "training samples watched for extrema", "samples", least=2)
    lr: float = changed(lab.TrainFlags, "lr", 1e-2)
    batch_size: int = changed(lab.TrainFlags, "batch_size", 128)
    num_seeds: int = changed(lab.SeedFlags, "num_seeds", 16)
    out: str = changed(lab.RunFlags, "out", "checkpoints/structure_place")


def settle(config: PlaceConfig, dataset: jaxnet.data.Dataset) -> PlaceConfig:
    """What is wrong is said before anything is written."""
    lab.run.check_samples(config, dataset)
    spec = spec_of(config, dataset, (128, 64))
    if len(spec.sizes) < 4:
        raise InputError(f"--placed-sizes needs two or more hidden layers to choose between: {spec.sizes}")
    return lab.run.resolve_kernel(config, spec, config.num_seeds * len(RULES))


def scored(high: Any, low: Any, key: Any) -> Any:
    """Extrema that are nothing but a ranking of all units, so that every rule places as many patches."""
    import jax
    import jax.numpy as jnp

    # equal scores are decided by a draw, not by the number of the unit
    high, low = (
        s + 1e-6 * jax.random.uniform(jax.random.fold_in(key, k), s.shape) for k, s in enumerate((high, low))
    )
    every = jnp.ones(high.shape, bool)
    return jaxnet.Extrema(every, every, high, low, jnp.abs(high), ~every)


def run_place(run: lab.Run[PlaceConfig]) -> lab.Found:
    """Trains scaffolds, then in the same seeds: nothing, patches by every rule, a layer at every place."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxnet import reach, signals
    from jaxnet.changes import grown, insert_layer, reshape, with_patches

    config, spec = run.config, spec_of(run.config, run.dataset, (128, 64))
    task = run.task(spec)
    optimizer, hidden = optax.adam(config.lr), spec.sizes[1:-1]
    rules = jaxnet.PatchRules("dense", config.max_patches)

    def scaffold(key: Any, before: Any) -> Any:
        network = jaxnet.init(spec, **jaxnet.keys.network_keys(key))
        return jaxnet.init_state(jaxnet.Net.of(*network, optimizer))

    def look(state: Any, split: Any) -> Any:
        """Scores of units by every rule, and of layers."""
        params, structure = state.best_params, state.net.structure
        matrices = reach.layer_matrices(params, structure)
        at = [reach.bottleneck(a, b, TOLERANCE) for a, b in zip(matrices, matrices[1:], strict=False)]
        units = signals.find(task, params, structure, split, "original", values="post")
        ways = reach.path_shares(structure)
        places = {
            "bottleneck": [(b.lost, b.starved) for b in at],
            "extrema": [(u.score_high, u.score_low) for u in units],
            "reach": [(share, -share) for share in ways],
        }
        # a layer goes where the largest share of what arrives is lost, or most units are extreme
        lost = [jnp.sum(b.lost) / jnp.maximum(jnp.sum(b.arrives), 1e-6) for b in at]
        layers = {"bottleneck": jnp.stack(lost), "extrema": jnp.stack([u.fraction for u in units])}
        return {"units": places, "layers": layers}

    def trained_on(state: Any) -> Any:
        return state.net.replace(params=state.best_params)

    def again(net: Any, state: Any) -> Any:
        return jaxnet.init_state(net).replace(diverged=state.diverged)

    def patched(key: Any, before: Any) -> Any:
        state, key_patch = before["state"], jaxnet.keys.purpose(key, jaxnet.keys.PATCH)
        key_place = jaxnet.keys.purpose(key, jaxnet.keys.LOOK)
        made = []
        for rule in RULES:
            given = before["found"]["units"].get(rule) or [(jnp.zeros(n), jnp.zeros(n)) for n in hidden]
            chosen = [
                scored(high, low, jax.random.fold_in(key_place, k)) for k, (high, low) in enumerate(given)
            ]

            def change(params: Any, chosen: Any = chosen) -> Any:
                return with_patches(params, state.net.structure, chosen, rules, key_patch=key_patch)

            made.append(again(reshape(trained_on(state), change), state))
        return tuple(made)

    def layered(after: int) -> Any:
        size, above = hidden[after], before_counts[after + 1]

        def start(key: Any, before: Any) -> Any:
            state, key_new = before["state"], jaxnet.keys.purpose(key, jaxnet.keys.CHANGE)
            net, _ = grown(
                trained_on(state),
                spec,
                insert_layer,
                after=after,
                size=size,
                nonzeros_in=2 * max(hidden),  # as many everywhere
                nonzeros_out=above,
                rule="preserve",
                key_mask=jax.random.fold_in(key_new, 0),
                key_init=jax.random.fold_in(key_new, 1),
            )
            return again(net, state)

        return start

    before_counts = jaxnet.allocate(spec.sizes, spec.density, spec.allocation)
    places = [f"layer-{k + 1}" for k in range(len(hidden))]
    more: dict[str, Any] = {"order": 1, "hand": lambda kept: kept["scaffold"]}

    def unchanged(key: Any, before: Any) -> Any:
        return again(trained_on(before["state"]), before["state"])

    stages = [
        lab.Stage(
            "scaffold",
            config.scaffold_epochs,
            task,
            scaffold,
            keep=lambda state, split: {"state": state, "found": jax.vmap(look, (0, None))(state, split)},
            samples=run.split("train", slice(config.extrema_samples)),
            order=0,
        ),
        lab.Stage("unchanged", config.added_epochs, task, unchanged, **more),
        lab.Stage("patched", config.added_epochs, task, patched, arms=RULES, **more),
        *(lab.Stage(place, config.added_epochs, task, layered(k), **more) for k, place in enumerate(places)),
    ]
    trained = lab.train_stages(run, stages)
    kept = {name: stage.kept for name, stage in trained.items()}
    return measured(run, task, kept, places)


def measured(run: lab.Run[PlaceConfig], task: Any, kept: Any, places: list[str]) -> lab.Found:
    """Accuracies of all arms; the layer that a rule chooses is looked up among those at all places."""
    import jax

    number, arms, diverged = run.config.num_seeds, {}, {}
    test = run.split("test")

    def judged(state: Any) -> tuple[np.ndarray, np.ndarray]:
        accuracy, _ = run.judge(task, state.best_params, state.net.structure, test)
        return accuracy, np.asarray(state.diverged)

    for name in ("unchanged", *places):
        arms[name], diverged[name] = judged(kept[name])
    accuracy, gone = judged(kept["patched"])
    for k, rule in enumerate(RULES):
        here = slice(k * number, (k + 1) * number)
        arms[f"patches: {rule}"], diverged[f"patches: {rule}"] = accuracy[here], gone[here]
    scores = {name: np.asarray(s) for name, s in kept["scaffold"]["found"]["layers"].items()}
    chance = [np.random.default_rng([seed, 7]).integers(len(places)) for seed in run.seeds]
    chosen = {name: np.argmax(score, axis=1) for name, score in scores.items()} | {"random": np.array(chance)}
    for rule in CHOICES:
        name = f"layer: {rule}"
        arms[name] = np.array([arms[places[at]][k] for k, at in enumerate(chosen[rule])])
        diverged[name] = np.array([diverged[places[at]][k] for k, at in enumerate(chosen[rule])])
    entries: dict[str, Any] = {}
    for name, accuracy in arms.items():
        entries |= lab.entries(run.seeds, (name,), diverged=diverged[name], accuracy=accuracy)
    first = jax.tree.map(lambda leaf: leaf[:number], kept["patched"])
    states = {"scaffold": kept["scaffold"]["state"], "unchanged": kept["unchanged"], "patched": first}
    states |= {place: kept[place] for place in places}
    extra = {
        "sizes": list(task.model.spec.sizes),
        "kernel": run.config.kernel,
        "along": along(run, states, [("scaffold", "unchanged"), ("scaffold", "patched")]),
        "chosen": {rule: np.bincount(at, minlength=len(places)).tolist() for rule, at in chosen.items()},
    }
    return lab.Found(entries, extra=extra)


PLACE = lab.Study("structure_place", PlaceConfig, run_place, settle=settle)
