"""Half of ``experiments.patchability``: scaffolds that are hunted, looked at, and all of them patched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import jaxnet
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option
from jaxnet.lab.flags import check_learning_rates

BASE = "accuracy"
"""The rival: what a scaffold is worth before it is patched."""

TARGETS = {"gain": "over the scaffold", "beyond": "over the same scaffold trained on without patches"}
"""What is to be predicted: points of test accuracy."""

CRITERIA = {
    "accuracy": "accuracy",
    "patchability": "score × (1 − accuracy)",
    "described": "described score × (1 − accuracy)",
}
"""By what a hunt ranks its scaffolds, and the column behind it."""

PLACES = ("top", "middle", "bottom")
"""Which scaffold of a hunt is taken: the best, the median, the worst by a criterion."""


@dataclass(frozen=True)
class PatchedConfig(lab.RunFlags, lab.TrainFlags, lab.SeedFlags, lab.NetworkFlags, lab.DataFlags):
    """Scaffolds of one allocation, looked at after a hunt's training and patched."""

    hunt_size: int = option(16, "scaffolds that are ranked together", least=3)
    scaffold_epochs: int = option(5, "before patches", "epochs", least=1)
    patch_epochs: int = option(5, "with patches, and without them", "epochs", least=1)
    max_patches: int = option(5, "patches per hidden layer and kind of extremum", least=1)
    patch_kind: str = option("mlp", "kind of the patches")
    lr_scaffold: float = option(1e-4, "of the scaffold after patches")
    lr_patch: float = option(5e-4, "of the patches")
    extrema_samples: int = option(3000, "training samples watched for extrema, at most", "samples", least=2)
    permutations: int = option(200, "of every predictor, for what chance reaches", least=20)
    lr: float = changed(lab.TrainFlags, "lr", 1e-2)
    batch_size: int = changed(lab.TrainFlags, "batch_size", 128)
    num_seeds: int = changed(lab.SeedFlags, "num_seeds", 256)
    out: str = changed(lab.RunFlags, "out", "checkpoints/patchability_run")

    def check(self) -> None:
        """Raises InputError for values that do not go together."""
        check_learning_rates(self, "lr_scaffold", "lr_patch")
        if self.num_seeds % self.hunt_size:
            raise InputError(
                f"--num-seeds {self.num_seeds} are no whole hunts of {self.hunt_size}: give a multiple"
            )
        super().check()


def settle(config: PatchedConfig, dataset: jaxnet.data.Dataset) -> PatchedConfig:
    """What is wrong is said before anything is written."""
    lab.run.check_samples(config, dataset)
    spec = make_spec(config, dataset)
    if config.max_patches > (widest := max(spec.sizes[1:-1])):
        raise InputError(f"--max-patches {config.max_patches}: the widest hidden layer has {widest} units")
    return lab.run.resolve_kernel(config, spec, config.num_seeds)


def make_spec(config: PatchedConfig, dataset: jaxnet.data.Dataset) -> jaxnet.NetworkSpec:
    """The network for a data set."""
    fields = {name: getattr(config, name) for name in ("density", "activation", "allocation")}
    return lab.run.network_spec(dataset, config.sizes, **fields, init=lab.run.init_rule(config))


def run_patched(run: lab.Run[PatchedConfig]) -> lab.Found:
    """Trains scaffolds, looks at them, trains them on with patches and without, judges, predicts."""
    import jax

    config, spec = run.config, make_spec(run.config, run.dataset)
    task = run.task(spec)
    assert config.lr is not None
    slow, fast = (jaxnet.dual_rate_adam(lr, config.lr_patch) for lr in (config.lr, config.lr_scaffold))
    rules = jaxnet.PatchRules(config.patch_kind, config.max_patches)

    def scaffold(key: Any, before: Any) -> Any:
        return jaxnet.init_state(jaxnet.Net.of(*jaxnet.init(spec, **jaxnet.keys.network_keys(key)), slow))

    def find(state: Any, split: Any) -> Any:
        return jaxnet.signals.find(task, state.best_params, state.net.structure, split, "original")

    def plain(before: Any) -> Any:
        net = before["state"].net.replace(params=before["state"].best_params)
        return jaxnet.changes.with_optimizer(net, fast)

    def again(net: Any, before: Any) -> Any:
        return jaxnet.init_state(net).replace(diverged=before["state"].diverged)

    def patched(key: Any, before: Any) -> Any:
        key_patch = jaxnet.keys.purpose(key, jaxnet.keys.PATCH)
        net = plain(before)

        def change(params: Any) -> Any:
            return jaxnet.with_patches(params, net.structure, before["found"], rules, key_patch=key_patch)

        return again(jaxnet.changes.reshape(net, change), before)

    watched = run.split("train", slice(config.extrema_samples))
    more: dict[str, Any] = {"order": 1, "hand": lambda kept: kept["scaffold"]}
    trained = lab.train_stages(
        run,
        [
            lab.Stage(
                "scaffold",
                config.scaffold_epochs,
                task,
                scaffold,
                keep=lambda state, split: {"state": state, "found": jax.vmap(find, (0, None))(state, split)},
                samples=watched,
                order=0,
            ),
            lab.Stage("patched", config.patch_epochs, task, patched, **more),
            lab.Stage(
                "on", config.patch_epochs, task, lambda key, before: again(plain(before), before), **more
            ),
        ],
    )
    states = {"scaffold": trained["scaffold"].kept["state"]}
    states |= {name: trained[name].kept for name in ("patched", "on")}
    columns = looked_at(run, task, states["scaffold"], trained["scaffold"].kept["found"], watched)
    return found_of(run, task, states, columns)


def looked_at(
    run: lab.Run[PatchedConfig], task: Any, state: Any, found: Any, watched: Any
) -> dict[str, np.ndarray]:
    """The predictors, each ``(network,)``: all that is known of a scaffold before it is patched."""
    import jax
    import jax.numpy as jnp

    from jaxnet import reach, signals, train
    from jaxnet.linalg import singular_values

    structure, hidden = state.net.structure, sum(task.model.spec.sizes[1:-1])

    def look(params: Any, structure: Any, split: Any) -> dict[str, Any]:
        seen = signals.find(task, params, structure, split, "original", values="post")
        stats = train.collect_stats(task, params, structure, split, values="pre")
        means = [layer.mean for layer in stats]
        alive = reach.live(structure).counts
        return {
            "score": sum(jnp.sum(u.high) + jnp.sum(u.low) for u in seen) / hidden,
            "described score": train.outside(task, params, structure, split),
            "dead fraction": sum(jnp.sum(layer.active == 0) for layer in stats) / hidden,
            **{f"mean {k}": jnp.mean(mean) for k, mean in enumerate(means, 1)},
            **{f"spread {k}": jnp.std(mean, ddof=1) for k, mean in enumerate(means, 1)},
            "live inputs": alive.inputs,
            "live units": alive.units,
            "live outputs": alive.outputs,
        }

    params = state.best_params
    seen = jax.tree.map(np.asarray, run.over_seeds("the scaffolds", look, params, structure, watched))
    accuracy = np.where(state.diverged, np.nan, np.asarray(state.best_accuracy))
    counts = {
        f"{kind} {k}": np.asarray(getattr(layer, kind)).sum(axis=1)
        for kind in ("high", "low")
        for k, layer in enumerate(found, 1)
    }

    @jax.jit
    @jax.vmap
    def spectra(params: Any, structure: Any) -> Any:
        matrices = reach.layer_matrices(params, structure)
        values = [reach.effective_rank(singular_values(matrix), "participation") for matrix in matrices]
        return jnp.stack(values)

    ranks = np.asarray(spectra(params, structure))
    columns = {BASE: accuracy, **counts, **{name: np.asarray(c, float) for name, c in seen.items()}}
    columns |= {f"effective rank {k}": rank for k, rank in enumerate(ranks.T, 1)}
    columns[CRITERIA["patchability"]] = columns["score"] * (1 - accuracy)
    columns[CRITERIA["described"]] = columns["described score"] * (1 - accuracy)
    return columns


def worth_of_kinds(run: lab.Run[PatchedConfig], task: Any, state: Any) -> dict[str, np.ndarray]:
    """Validation accuracy lost without all patches of a kind, and without any, each ``(network,)``."""
    import jax.numpy as jnp

    def lost(params: Any, structure: Any, split: Any) -> dict[str, Any]:
        bank = structure.bank
        high = jnp.concatenate([jnp.arange(len(p.active)) < p.num_high for p in bank.layers if p is not None])

        def accuracy(keep: Any) -> Any:
            kept = structure.replace(bank=jaxnet.patches.keep_patches(bank, keep))
            return jaxnet.evaluate(task, params, kept, split).accuracy

        whole, nothing = accuracy(high | ~high), high & ~high
        left = {"high": accuracy(~high), "low": accuracy(high), "all": accuracy(nothing)}
        return {name: whole - rest for name, rest in left.items()}

    state_of = state.best_params, state.net.structure
    found = run.over_seeds("what kinds are worth", lost, *state_of, run.split(run.watched))
    return {name: np.asarray(values) for name, values in found.items()}


def found_of(
    run: lab.Run[PatchedConfig], task: Any, states: Mapping[str, Any], columns: Mapping[str, np.ndarray]
) -> lab.Found:
    """Accuracies, predictions, and the scaffolds that hunts would have taken."""
    from jaxnet import prediction

    config, test = run.config, run.split("test")
    gone = np.logical_or.reduce([np.asarray(state.diverged) for state in states.values()])
    accuracy = {
        name: np.where(gone, np.nan, run.judge(task, s.best_params, s.net.structure, test)[0])
        for name, s in states.items()
    }
    measures = {
        "accuracy": accuracy["patched"],
        "scaffold": accuracy["scaffold"],
        "gain": accuracy["patched"] - accuracy["scaffold"],
        "beyond": accuracy["patched"] - accuracy["on"],
    }
    worth = worth_of_kinds(run, task, states["patched"])
    scaffolds = lab.entries(
        run.seeds, ("scaffolds",), diverged=gone, **measures, lost_without=worth, predictors=columns
    )
    # the products are nearly sums of the others, whose importance they would blow up
    plain = {name: c for name, c in columns.items() if name not in CRITERIA.values() or name == BASE}
    told: dict[str, Any] = {}
    for target in TARGETS:
        y, how = measures[target], {"permutations": config.permutations}
        told[target] = {
            "predictors": prediction.predictors(columns, y, BASE, **how),
            "importance": prediction.importance(plain, y),
            "thirds": {name: prediction.thirds(columns[name], y) for name in columns if name != BASE},
        }
    extra = {"sizes": list(task.model.spec.sizes), "kernel": config.kernel, "predicted": told}
    return lab.Found({**scaffolds, **hunts(config, columns, measures, gone)}, extra=extra)


def hunts(
    config: PatchedConfig,
    columns: Mapping[str, np.ndarray],
    measures: Mapping[str, np.ndarray],
    gone: np.ndarray,
) -> dict[str, list[dict[str, Any]]]:
    """By criterion and place the scaffold that every hunt takes, and under ``all`` the mean of every hunt."""
    size = config.hunt_size
    number = range(config.num_seeds // size)

    def arm(name: str, chosen: np.ndarray, lost: np.ndarray) -> dict[str, list[dict[str, Any]]]:
        of = {measure: np.nanmean(column[chosen], axis=1) for measure, column in measures.items()}
        return lab.entries(number, (name,), diverged=lost, **of)

    every = np.arange(config.num_seeds).reshape(-1, size)  # (hunt, scaffold)
    with np.errstate(invalid="ignore"):
        found = arm("all", every, np.all(gone[every], axis=1))
        for name, column in CRITERIA.items():
            # diverged ones are never taken while there are others
            score = np.where(gone, -np.inf, columns[column])[every]
            order = np.argsort(-score, axis=1, kind="stable")
            sound = size - gone[every].sum(axis=1)
            at = {"top": 0 * sound, "middle": sound // 2, "bottom": np.maximum(sound - 1, 0)}
            for place in PLACES:
                chosen = np.take_along_axis(every, np.take_along_axis(order, at[place][:, None], 1), 1)
                found |= arm(f"{name}: {place}", chosen, sound == 0)
    return found


def arms_of_hunts() -> Sequence[str]:
    """Names of the arms of :func:`hunts`, ``all`` first."""
    return ["all", *(f"{name}: {place}" for name in CRITERIA for place in PLACES)]


PATCHED = lab.Study("patchability_run", PatchedConfig, run_patched, settle=settle)
