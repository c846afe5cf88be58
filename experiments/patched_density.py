"""Patched density: does a sparse scaffold gain from dense patches around its extrema?

Train a sparse scaffold, find its extrema, put small dense patches around them,
train on with one learning rate for the scaffold and another for the patches; all
seeds in one compiled program.

    python -m experiments.patched_density --dataset mnist --num-seeds 8
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jaxnet
from experiments import _patched_found as found
from experiments import _winner
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option
from jaxnet.lab.flags import Activation, Allocation, check_learning_rates

FRESH: dict[str, Any] = {
    "density": 0.02,
    "allocation": "uniform",
    "activation": "relu",
    "scaffold_epochs": 20,
    "lr": 1e-3,
}
"""Of a scaffold trained here, where a flag does not say otherwise."""


@dataclass(frozen=True)
class Config(lab.RunFlags, lab.ExtremaFlags, lab.TrainFlags, lab.SeedFlags, lab.NetworkFlags, lab.DataFlags):
    """Sparse scaffold, extrema, dense patches, dual learning rates, for many seeds at once."""

    density: float | None = changed(
        lab.NetworkFlags, "density", None, "fraction of the scaffold's weights that exist; auto: 0.02"
    )
    allocation: Allocation | None = changed(
        lab.NetworkFlags, "allocation", None, "how the density is shared out over the layers; auto: uniform"
    )
    activation: Activation | None = changed(
        lab.NetworkFlags, "activation", None, "of the hidden layers; auto: relu"
    )
    seed: int = changed(lab.SeedFlags, "seed", help="the first; a seed decides masks, weights and patches")
    lr: float | None = changed(lab.TrainFlags, "lr", None, "Adam's learning rate before patches; auto: 0.001")
    extrema_samples: int | None = changed(
        lab.ExtremaFlags,
        "extrema_samples",
        help="samples watched; auto: all training samples, or 1000 test samples with --protocol seed",
    )
    from_checkpoint: str | None = _winner.flag("patch")
    checkpoint_fingerprint: str | None = option(None, "of that scaffold", cli=False)
    scaffold_epochs: int | None = option(
        None, "epochs without patches; auto: 20, or 0 with --from-checkpoint", "epochs", none="auto"
    )
    patch_epochs: int = option(30, "epochs with patches", "epochs", least=0)
    lr_scaffold: float = option(1e-4, "of the scaffold after patches; 0 freezes it")
    lr_patch: float = option(5e-4, "of the patches; equal to --lr-scaffold it is the control")
    patience: int | None = option(
        None, "without a better accuracy before a seed stops, in each phase", "epochs", none="never", least=1
    )
    patch_kind: Literal["mlp", "dense"] = option(
        "mlp", "mlp: the original's small networks; dense: new direct connections"
    )
    patch_density: float = option(
        0.5, "fraction of the layer above or below that a dense patch connects to", "in (0, 1]", fraction=True
    )
    max_patches: int = option(5, "patches per hidden layer and kind of extremum; 0: train on", least=0)
    total_patches: int | None = option(
        None, "patches in all, the most extreme of every layer and kind first", none="any", least=1
    )
    watch_output: bool = option(
        False, "also count extrema of the output layer, and note mean and deviation of every layer"
    )
    placement: Literal["extrema", "random", "least"] = option(
        "extrema", "where patches go: at extrema, or as many of the same at random or the least extreme units"
    )
    mask_mode: Literal["enforced", "scaffold-phase"] = option(
        "enforced",
        "scaffold-phase: masks hold before patches only, then every weight is free (original, first version)",
    )
    redundancy: bool = option(False, "also measure how far any two patches stand in for one another (slow)")
    prune_patches: float | None = option(
        None,
        "drop redundant patches after training, one after the other: all that cost together at most so many "
        "points of the accuracy that is watched; 0: those that cost none",
        "points",
        none="off",
        least=0,
    )
    out: str = changed(lab.RunFlags, "out", "checkpoints/patched_density")

    def check(self) -> None:
        """Raises InputError for values that do not go together."""
        super().check()
        least = 1 if self.from_checkpoint is None else 0
        if self.scaffold_epochs is not None and self.scaffold_epochs < least:
            raise InputError(f"--scaffold-epochs must be at least {least}: {self.scaffold_epochs}")
        check_learning_rates(self, "lr_scaffold", "lr_patch")
        if self.mask_mode == "scaffold-phase" and self.patch_kind == "dense":
            raise InputError(
                "--mask-mode scaffold-phase frees every weight, which leaves no room for new connections: "
                "use --patch-kind mlp"
            )


def make_spec(config: Config, dataset: jaxnet.data.Dataset) -> jaxnet.NetworkSpec:
    """The network for a data set."""
    fields = {name: getattr(config, name) for name in ("density", "activation", "allocation")}
    return lab.run.network_spec(dataset, config.sizes, **fields, init=lab.run.init_rule(config))


def settle(config: Config, dataset: jaxnet.data.Dataset) -> Config:
    """Settles what is ``auto``, from a winner if there is one; checks what can be checked."""
    config = _winner.adopt(config, dataset)
    if config.from_checkpoint is not None:
        config = of_winner(config)
    config = lab.settled(config, FRESH)
    spec = make_spec(config, dataset)
    lab.run.check_samples(config, dataset)
    check_room(config, spec.sizes)
    part = "test" if config.protocol == "seed" else "train"
    there, asked = len(getattr(dataset, f"y_{part}")), config.extrema_samples
    if (asked or 0) > there:
        what = f"{there} {lab.run.PARTS[part]} samples"
        raise InputError(f"--extrema-samples {asked}: {dataset.name} has {what} only")
    return lab.run.resolve_kernel(config, spec, config.num_seeds)


def of_winner(config: Config) -> Config:
    """What a trained scaffold needs no more; InputError where it is asked for."""
    for name in ("scaffold_epochs", "lr"):
        if getattr(config, name):  # 0 epochs are what is done
            words = "has no meaning with --from-checkpoint: its scaffold is trained; leave it out"
            raise InputError(f"{lab.flag_name(name)} {words}")
    if config.max_patches == 0 and config.num_seeds > 1:
        words = "leaves nothing to draw, so all seeds would be one network: give --num-seeds 1"
        raise InputError(f"--max-patches 0 {words}")
    return lab.settled(config, {"scaffold_epochs": 0})


def check_room(config: Config, sizes: Sequence[int]) -> None:
    """Raises InputError where there are fewer units than patches asked for."""
    widest, room = max(sizes[1:-1]), sum(map(sum, jaxnet.patches.slot_counts(sizes, config.max_patches)))
    if config.max_patches > widest:
        raise InputError(f"--max-patches {config.max_patches}: the widest hidden layer has {widest} units")
    if config.max_patches and (config.total_patches or 0) > room:
        raise InputError(
            f"--total-patches {config.total_patches}: with --max-patches {config.max_patches} the hidden "
            f"layers of {lab.shown.sizes_label(sizes)} have room for {room}"
        )


def patch_rules(config: Config) -> jaxnet.PatchRules:
    """How patches are made; the original's have its faults (:mod:`jaxnet.original`)."""
    original = config.protocol == "seed"
    make = jaxnet.OriginalRules if original and config.patch_kind == "mlp" else jaxnet.PatchRules
    return make(
        "original" if make is jaxnet.OriginalRules else config.patch_kind,
        config.max_patches,
        "first" if original and config.placement == "extrema" else config.placement,
        config.patch_density,
        total=config.total_patches,
    )


def make_stages(run: lab.Run[Config], task: jaxnet.Task) -> list[lab.Stage]:
    """A phase without patches and one with them; every switch is explained in docs/protocols.md."""
    import jax

    config: Any = run.config  # nothing is auto
    seed, winner = config.protocol == "seed", _winner.of(config)
    spec, rules = make_spec(config, run.dataset), patch_rules(config)
    slow, fast = (jaxnet.dual_rate_adam(lr, config.lr_patch) for lr in (config.lr, config.lr_scaffold))

    def scaffold(key: Any, before: Any) -> Any:
        if winner is not None:  # trained, whatever the key
            return jaxnet.init_state(jaxnet.Net.of(winner.params, winner.structure, slow))
        return jaxnet.init_state(jaxnet.Net.of(*jaxnet.init(spec, **jaxnet.keys.network_keys(key)), slow))

    def find(state: Any, split: Any) -> Any:
        network = chosen(config, state), state.net.structure
        return jaxnet.signals.find(task, *network, split, config.detector, values=config.detect_on)

    def patched(key: Any, before: Any) -> Any:
        state, extrema = before["state"], before["found"]
        net = state.net.replace(params=chosen(config, state))

        def with_them(params: Any) -> Any:
            key_patch = jaxnet.keys.purpose(key, jaxnet.keys.PATCH)
            return jaxnet.with_patches(params, net.structure, extrema, rules, key_patch=key_patch)

        if seed or config.mask_mode == "scaffold-phase":  # a new optimiser
            params, structure = with_them(net.params)
            if config.mask_mode == "scaffold-phase":
                params, structure = jaxnet.to_masked_network(params, structure)
                structure = jaxnet.nn.params.release_masks(structure)
            net = jaxnet.Net.of(params, structure, fast)
        else:
            net = jaxnet.changes.reshape(jaxnet.changes.with_optimizer(net, fast), with_them)
        return jaxnet.init_state(net).replace(diverged=state.diverged)

    @jax.jit
    def along(now: Any, kept: Any) -> Any:
        before = kept["scaffold"]["state"]
        values = now.net.params, chosen(config, before), before.net.structure
        names = "patch_norm", "scaffold_drift"
        return dict(zip(names, jax.vmap(jaxnet.changes.norm_and_drift)(*values), strict=True))

    watched, patience = found.watched_samples(config), {"patience": config.patience}
    return [
        lab.Stage(
            "scaffold",
            config.scaffold_epochs,
            task,
            scaffold,
            keep=lambda state, split: {"state": state, "found": jax.vmap(find, (0, None))(state, split)},
            samples=run.split("test" if seed else "train", slice(watched)),
            order=0,
            **patience,
            judged_at_start=winner is not None,
        ),
        # not compiled quickly: fused otherwise, the last bits of fresh moments would differ
        lab.Stage(
            "patch",
            config.patch_epochs,
            task,
            patched,
            order=1,
            **patience,
            quick=False,
            also=along,
        ),
    ]


def chosen(config: Config, state: Any) -> Any:
    """The scaffold that is patched and reported: the best on validation, or the last as in the original."""
    return state.net.params if config.protocol == "seed" else state.best_params


def run_patched(run: lab.Run[Config], given: Any = None) -> lab.Found:
    """Trains, patches, trains on, measures."""
    config, spec = run.config, make_spec(run.config, run.dataset)
    task = run.task(spec)
    trained = lab.train_stages(run, make_stages(run, task), given)
    before, after = trained["scaffold"].kept["state"], trained["patch"].kept
    first = [row["accuracy"] for row in trained["patch"].rows if row["epoch"] == 1]
    extra = {"sizes": list(spec.sizes), "kernel": config.kernel, "first_patch_accuracy": first}
    seeds = found.measure(run, task, before, after, trained)
    return lab.Found({"patched": seeds}, extra=extra, shared={"scaffold": trained["scaffold"]})


STUDY = lab.Study(
    "patched_density",
    Config,
    run_patched,
    settle=settle,
    tables=found.tables,
    numbers=found.numbers,
    plots={
        "accuracy.png": found.draw_accuracy,
        "extrema.png": found.draw_extrema,
        "contributions.png": found.draw_contributions,
    },
    opening=lambda c: f"{c.dataset}: {c.num_seeds} seeds, scaffolds first, then patches",
    known=_winner.known,
    may_differ=("from_checkpoint",),
    unsaid=("checkpoint_fingerprint", "total_patches", "watch_output", "prune_patches"),
)

if __name__ == "__main__":
    STUDY.command(__doc__)
