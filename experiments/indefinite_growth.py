"""Indefinite growth: a sparse network grows around its extrema until it does well enough.

Train to convergence, find the extrema, insert a layer or add units where they
gather, put patches around them, and again, until the target or the budget is
reached. All seeds grow at once; networks of equal shape train as one program.

    python -m experiments.indefinite_growth --dataset mnist --protocol seed --num-seeds 8
    python -m experiments.indefinite_growth --dataset mnist --recipe lean --num-seeds 10
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jaxnet
from experiments import _growth_found as found
from experiments import _winner
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option
from jaxnet.lab.flags import Activation, Allocation

AUTO: dict[str, tuple[Any, Any, Any]] = {
    "hidden": ((128,), (128,), (64, 32)),
    "density": (0.02, 0.02, 0.04),
    "allocation": ("uniform", "uniform", "erdos-renyi"),
    "rule": ("ratio", "count", "always"),
    "change": ("insert", "insert", "widen"),
    "counted": ("both", "high", "both"),
    "operator": ("redraw", "redraw", "preserve"),
    "added": (None, None, 600),
    "size": (None, None, 16),
    "max_patches": (5, 5, 0),
    "patch_kind": ("mlp", "dense", "mlp"),
    "epochs": (20, 20, 10),
    "patience": (5, 5, 0),
    "lr": (1e-3, 1e-3, 2e-3),
    "schedule": ("constant", "constant", "cosine"),
    "exchange": ("none", "none", "gradient"),
    "standard_errors": (0.0, 0.0, 1.0),
    "min_gain": (0.0, 0.005, 0.0),
}
"""What ``auto`` stands for in each recipe; ``hidden`` layers are those of ``--sizes auto``."""

RECIPES = {
    recipe: {flag: AUTO[flag][i] for flag in AUTO}
    for i, recipe in enumerate(("original", "described", "lean"))
}

SEED_EXTREMA = slice(128, 192)
"""Test samples for the extrema of protocol ``seed``: the original passes three batches of 64, and its last
one overwrites what the others left."""

EXCHANGED_UNTIL = 0.75
"""Share of an iteration after which no weights are exchanged any more (as RigL's authors have it)."""


def auto(help: str, unit: str | None = None, **allowed: Any) -> Any:
    """A field whose default the recipe decides."""
    return option(None, f"{help}; auto: what the recipe says", unit, none="auto", **allowed)


@dataclass(frozen=True)
class Config(lab.RunFlags, lab.ExtremaFlags, lab.TrainFlags, lab.SeedFlags, lab.NetworkFlags, lab.DataFlags):
    """Networks that grow around their extrema until they reach a target, many at once."""

    density: float | None = auto("fraction of the weights that exist at first", "in (0, 1]", fraction=True)
    allocation: Allocation | None = auto("how the density is shared out over the layers")
    activation: Activation | None = option("relu", "of the hidden layers")
    from_checkpoint: str | None = _winner.flag("grow")
    checkpoint_fingerprint: str | None = option(None, "of that scaffold", cli=False)
    lr: float | None = auto("Adam's learning rate", above=0)
    extrema_samples: int | None = changed(
        lab.ExtremaFlags, "extrema_samples", help="auto: all of training; protocol seed: the third 64 of test"
    )
    recipe: Literal["original", "described", "lean"] = option(
        "original",
        "original: layers of equal density and patches, as its code; described: as the texts on it, layers "
        "by high extrema, dense patches, until it pays no more; lean: few weights, where worth most",
    )
    target: float = option(0.95, "accuracy at which a network stops growing", "in (0, 1]", fraction=True)
    standard_errors: float | None = auto("by how many standard errors the target must be exceeded", least=0)
    iterations: int = option(10, "of training and change, at most", least=1)
    max_nonzeros: int | None = option(None, "weights and values of patches, at most", none="any", least=1)
    time_limit: float | None = option(None, "seconds for all seeds together", "s", none="any", above=0)
    min_gain: float | None = auto("least gain over --stall iterations, a fraction; 0: any", least=0)
    stall: int = option(3, "see --min-gain", "iterations", least=1)
    rule: Literal["ratio", "count", "always"] | None = auto(
        "when the scaffold grows: above --min-ratio extrema per unit, from 10 high extrema on, always"
    )
    min_ratio: float = option(0.5, "extrema per hidden unit above which ratio grows", least=0)
    change: Literal["insert", "widen", "rewire", "none"] | None = auto("how: a layer, units, weights moved")
    place: Literal["worst", "share", "least", "random", "last"] = option(
        "worst", "where: at the layer with most extrema, most per unit, fewest, at a random one, at the last"
    )
    counted: Literal["both", "high"] | None = auto(
        "extrema that say which layer is worst, and how many units"
    )
    operator: Literal["redraw", "preserve"] | None = auto("the layer behind: drawn anew, or function kept")
    added: int | None = auto("weights that a change adds; without it, the density at the start", least=2)
    size: int | None = auto("units of a change; without it, 4 per extremum, at most --max-size", least=1)
    max_size: int = option(256, "units of a change, at most", least=1)
    max_patches: int | None = auto("patches per hidden layer, kind of extremum and iteration", least=0)
    patch_kind: Literal["mlp", "dense"] | None = auto("of patches: small networks, or direct connections")
    apart: bool = option(
        False, "also measure the gain of layers and of patches apart (four trainings for one)"
    )
    prune: tuple[float, ...] | None = option(
        None,
        "fractions of the grown networks' weights to prune, a run of --prune-epochs each",
        none="none",
        fraction=True,
    )
    prune_epochs: int = option(5, "of training on after pruning", "epochs", least=1)
    epochs: int | None = auto("of an iteration, at most", "epochs", least=1)
    patience: int | None = auto("without a better accuracy it ends; 0: it does not", "epochs", least=0)
    schedule: Literal["constant", "cosine"] | None = auto("of the learning rate, within an iteration")
    exchange: Literal["none", "random", "gradient", "revive", "revive-alone"] | None = auto(
        "in training: none, SET, RigL, dead units drawn anew beside RigL, or these alone"
    )
    out: str = changed(lab.RunFlags, "out", "checkpoints/indefinite_growth")

    def check(self) -> None:
        """Raises InputError for values that do not go together."""
        super().check()
        chosen = lab.settled(self, RECIPES[self.recipe])
        if chosen.patience and chosen.schedule == "cosine":
            raise InputError("--schedule cosine needs iterations of equal length: give --patience 0 with it")
        if chosen.exchange != "none" and chosen.patience:
            raise InputError("--exchange goes with iterations of equal length: give --patience 0 with it")
        if chosen.operator == "preserve" and chosen.change == "insert" and self.activation != "relu":
            raise InputError(
                "a layer that preserves the function needs --activation relu: or give --operator redraw"
            )
        if self.prune is not None and (not self.prune or max(self.prune) >= 1):
            raise InputError(f"--prune must be fractions below 1, at least one: {list(self.prune)}")


def make_plan(config: Config, dataset: jaxnet.data.Dataset) -> jaxnet.growth.GrowthPlan:
    """The plan of a settled configuration; InputError where sizes or density do not fit."""
    from jaxnet.growth import DecisionRules, GrowthPlan

    def flags(*names: str) -> dict[str, Any]:
        return {name: getattr(config, name) for name in names}

    c: Any = config  # nothing is auto
    seed, patches = c.protocol == "seed", c.max_patches > 0
    network = {**flags("density", "activation", "allocation"), "init": lab.run.init_rule(c)}
    spec = lab.run.network_spec(dataset, c.sizes, RECIPES[c.recipe]["hidden"], **network)
    method = None
    if c.exchange != "none":
        steps = c.epochs * -(-len(dataset.y_train) // c.batch_size)
        name, until = {"random": "set"}.get(c.exchange, "rigl"), max(1, int(EXCHANGED_UNTIL * steps))
        method = None if c.exchange == "revive-alone" else jaxnet.methods.make(name, until=until)
        if c.exchange.startswith("revive"):
            method = jaxnet.methods.make("revive", until=until, base=method)
    decisions = flags("rule", "change", "place", "min_ratio", "max_size", "size", "counted")
    make = jaxnet.OriginalRules if seed and c.patch_kind == "mlp" else jaxnet.PatchRules
    kind = "original" if make is jaxnet.OriginalRules else c.patch_kind
    try:
        return GrowthPlan(
            spec,
            DecisionRules(**decisions, patches=patches),
            **flags("operator", "added", "epochs", "lr", "schedule", "detector", "detect_on", "batch_size"),
            own_draws=c.own_draws,
            transform=lab.run.augmentation(c, dataset),
            patches=make(kind, c.max_patches) if patches else None,
            patience=c.patience or None,
            lr_patch=c.lr,
            select="last" if seed or method is not None else "best",
            judge_best=seed,
            fresh_optimizer=seed,
            method=method,
            product=jaxnet.kernels.product("dense" if c.kernel == "auto" else c.kernel),
        )
    except ValueError as error:
        raise InputError(str(error)) from None


def make_budget(c: Config) -> jaxnet.growth.Budget:
    """What growth may cost."""
    return jaxnet.growth.Budget(c.iterations, c.max_nonzeros, c.time_limit, c.min_gain or None, c.stall)


def settle(config: Config, dataset: jaxnet.data.Dataset) -> Config:
    """Settles winner, recipe and kernel; checks what can be checked."""
    config = lab.settled(_winner.adopt(config, dataset), RECIPES[config.recipe])
    plan = make_plan(config, dataset)
    make_budget(config).check_start(plan)
    lab.run.check_samples(config, dataset)
    return lab.run.resolve_kernel(config, plan.spec, config.num_seeds)


def run_growth(run: lab.Run[Config]) -> lab.Found:
    """Grows all seeds, and reads the test samples once."""
    from jaxnet.growth import GrowthData, Target, grow_until
    from jaxnet.growth.patterns import patterns
    from jaxnet.lab.stages import median_note

    config: Any = run.config  # nothing is auto
    plan, watched = make_plan(config, run.dataset), run.watched
    seed, target = config.protocol == "seed", Target(config.target, config.standard_errors)
    third = seed and config.extrema_samples is None and len(run.dataset.y_test) >= SEED_EXTREMA.stop
    samples = SEED_EXTREMA if third else slice(config.extrema_samples)
    shown = run.split("test" if seed else "train", samples)
    data = GrowthData(run.split("train"), run.split(watched), shown, run.key_data, lab.run.PARTS[watched])
    with lab.terminal.progress(config.iterations * plan.epochs, f"{config.num_seeds} seeds") as show:

        def at(iteration: int, epoch: int, accuracy: Any) -> None:
            note = f"iteration {iteration}, {len(accuracy)} networks, {median_note(accuracy)}"
            show(completed=(iteration - 1) * plan.epochs + epoch, note=note)

        def after(member: jaxnet.growth.Member) -> None:
            run.report(found.iteration_line(member))

        told: Any = {"folder": run.folder, "clock": run.clock, "on_epoch": at, "on_iteration": after}
        if (winner := _winner.of(config)) is not None:
            told["given"] = winner.params, winner.structure
        told["apart"] = config.apart
        members = grow_until(plan, data, target, make_budget(config), run.seeds, **told)
    grown = found.measure(run, plan, members)
    for fraction in config.prune or ():
        fewer = jaxnet.growth.prune(plan, data, members, fraction, config.prune_epochs, run.clock)
        for entry, (accuracy, _), member in zip(grown, found.judged(run, plan, fewer), fewer, strict=True):
            weights = jaxnet.count_nonzeros(member.net.params, member.net.structure)["scaffold"]
            told = {"accuracy": accuracy, "scaffold": int(weights)}
            entry.setdefault("pruned", {})[f"{fraction:g}"] = told
    return lab.Found(
        {"grown": grown}, extra={"kernel": config.kernel, "growth": patterns(lab.shown.sound(grown))}
    )


STUDY = lab.Study(
    "indefinite_growth",
    Config,
    run_growth,
    settle=settle,
    tables=found.tables,
    numbers=found.numbers,
    plots={"growth.png": found.draw_growth, "architectures.png": found.draw_architectures},
    known=_winner.known,
    may_differ=("from_checkpoint",),
    unsaid=("checkpoint_fingerprint", "from_checkpoint", "apart", "prune"),
    opening=lambda c: f"{c.dataset}: {c.num_seeds} seeds, recipe {c.recipe}; results go to {c.out}",
)

if __name__ == "__main__":
    STUDY.command(__doc__)
