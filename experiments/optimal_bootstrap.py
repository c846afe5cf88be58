"""Optimal bootstrap: does a network built from the features of a smaller one beat a random one of equal size?

Find the smallest network that learns, train it, build a medium and then a fine
network from it, and train each beside controls of the same number of weights;
all seeds and arms of a scale in one compiled program.

    python -m experiments.optimal_bootstrap --dataset mnist --num-seeds 32
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jaxnet
from experiments import _bootstrap_found as found
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option
from jaxnet.lab.flags import Allocation
from jaxnet.lab.shown import sizes_label

ARMS = ("bootstrapped", "random", "shuffled", "fresh values", "random, unequal")
"""What is compared at each scale, trained as one batch; the next scale is built from the first."""

UNRELATED = ("random, unequal",)
"""Arms that take nothing from the smaller network, not even a number of weights."""

PAIRS = (
    ("bootstrapped", "random"),
    ("bootstrapped", "shuffled"),
    ("bootstrapped", "fresh values"),
    ("fresh values", "random"),
    ("bootstrapped", "random, unequal"),
)
"""Which arms are compared at each scale: first minus second."""


@dataclass(frozen=True)
class Config(lab.DocumentFlags, lab.RunFlags, lab.TrainFlags, lab.SeedFlags, lab.NetworkFlags, lab.DataFlags):
    """The smallest network that learns, and two larger ones built from it, against controls of equal size."""

    sizes: tuple[int, ...] | None = option(None, "decided by --hidden and --widths", cli=False)
    allocation: Allocation | None = option("uniform", "of random masks", cli=False)
    density: float = option(0.02, "fraction of random masks' weights that exist", "in (0, 1]", fraction=True)
    hidden: tuple[int, ...] = option(
        (128, 64, 32, 16), "widths of the hidden layer tried in the search; without one is always tried too"
    )
    widths: tuple[int, int] = option((32, 128), "units of the new first layer: of medium, of fine")
    threshold: float = option(0.15, "accuracy above which a network has learned", "in [0, 1)")
    seed_network: Literal["found", "fresh"] | None = option(
        None,
        "what is grown: the network that the search found, trained on, or a new one without hidden layers "
        "as in the original's code; auto: fresh with --protocol seed, else found",
        none="auto",
    )
    search_epochs: int = option(20, "epochs of the search", "epochs", least=1)
    epochs: int = option(30, "epochs of each scale", "epochs", least=1)
    out: str = changed(lab.RunFlags, "out", "checkpoints/optimal_bootstrap")

    def check(self) -> None:
        """Raises InputError for values that do not go together."""
        super().check()
        if not 0 <= self.threshold < 1:
            raise InputError(f"--threshold must be at least 0 and below 1: {self.threshold}")
        for flag in ("hidden", "widths"):
            sizes = getattr(self, flag)
            if min(sizes, default=1) < 1:
                raise InputError(f"--{flag} must be positive sizes: {','.join(map(str, sizes))}")
        if len(set(self.hidden)) < len(self.hidden):
            raise InputError(f"--hidden names a size twice: {','.join(map(str, self.hidden))}")
        if self.doc is not None and self.num_seeds < 2:
            raise InputError(f"--doc needs at least 2 seeds for an interval: {self.num_seeds}")


@dataclass(frozen=True)
class Scale:
    """Networks of one architecture."""

    name: str  # of the stage; part of rows and checkpoint names
    sizes: tuple[int, ...]  # units per layer
    epochs: int
    grown: bool = False  # its networks are built from those of the stage before

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms; none where there is one network per seed."""
        return ARMS if self.grown else ()


def make_scales(
    config: Config, dataset: jaxnet.data.Dataset, small: tuple[int, ...] | None = None
) -> tuple[Scale, ...]:
    """The search for the smallest network that learns, then the three scales, from sizes ``small`` on."""
    num_in, classes = dataset.num_features, dataset.num_classes
    medium, fine = config.widths
    tried = [(num_in, hidden, classes) for hidden in config.hidden] + [(num_in, classes)]
    small = small or tried[-1]
    return (
        *(Scale(f"search-{sizes_label(sizes)}", sizes, config.search_epochs) for sizes in tried),
        Scale("seed", small, config.epochs),
        Scale("medium", (num_in, medium, *small[1:]), config.epochs, grown=True),
        Scale("fine", (num_in, fine, medium, *small[1:]), config.epochs, grown=True),
    )


def make_spec(config: Config, sizes: tuple[int, ...]) -> jaxnet.NetworkSpec:
    """The specification of a scale's networks; its density is that of the random masks."""
    try:
        how = {"activation": config.activation or "relu", "init": lab.run.init_rule(config)}
        return jaxnet.NetworkSpec(sizes, config.density, **how)
    except ValueError as error:
        raise InputError(f"{sizes_label(sizes)}: {error}") from None


def settle(config: Config, dataset: jaxnet.data.Dataset) -> Config:
    """Settles ``--kernel auto``; checks what can be checked before anything is written."""
    specs = [make_spec(config, scale.sizes) for scale in make_scales(config, dataset)]
    lab.run.check_samples(config, dataset)
    config = lab.settled(config, {"seed_network": "fresh" if config.protocol == "seed" else "found"})
    return lab.run.resolve_kernel(config, specs[-1], config.num_seeds)


def make_stage(run: lab.Run[Config], scale: Scale, number: int, handed: str | None = None) -> lab.Stage:
    """The stage of a scale: what it starts from, what is kept of it, and of which the next is built."""
    import jax
    import jax.numpy as jnp

    config: Any = run.config  # nothing is auto
    last, seeds = config.protocol == "seed", len(run.seeds)
    spec = make_spec(config, scale.sizes)
    task = run.task(spec)
    optimizer = jaxnet.dual_rate_adam(config.lr, config.lr)

    def ready(network: Any) -> Any:
        return jaxnet.init_state(jaxnet.Net.of(network[0], network[1], optimizer))

    def start(key: Any, before: Any) -> Any:
        key = jax.random.fold_in(key, number)
        if scale.name == "seed" and config.seed_network == "found":
            return ready(before[:2]).replace(diverged=before[2])  # trained on
        if not scale.grown:
            return ready(jaxnet.init(spec, **jaxnet.keys.network_keys(key)))
        params, structure, diverged = before
        states = []
        for arm, network in zip(
            ARMS, jaxnet.changes.bootstrapped_arms(spec, params, structure, key), strict=True
        ):
            # what is built from a diverged network has diverged: its features are of an earlier epoch
            states.append(ready(network).replace(diverged=diverged & (arm not in UNRELATED)))
        return tuple(states)

    def keep(state: Any, test: Any) -> Any:
        first = (state.net.params if last else state.best_params, state.net.structure, state.diverged)

        def right(params: Any, structure: Any) -> Any:
            return lab.run.count_right(task, params, structure, test)

        layers = [entry.num_nonzeros for entry in state.net.structure.weights]
        return {
            "small": jax.tree.map(lambda leaf: leaf[:seeds], first),
            "right": None if last else jax.vmap(right)(state.best_params, state.net.structure),
            "best": state.best_accuracy,
            "epoch": state.best_epoch,
            "diverged": state.diverged,
            "nonzeros": jnp.stack(layers, axis=1),
        }

    return lab.Stage(
        scale.name,
        scale.epochs,
        task,
        start,
        keep=keep,
        hand=lambda kept: kept[handed or scale.name]["small"],
        samples=None if last else run.split("test"),
        arms=scale.arms,
        order=number,
    )


def questions(config: Config) -> list[lab.Question]:
    """Of every scale and pair of arms: test accuracy (judged), and how fast they learn."""
    measures = ["accuracy", found.MEAN, *(f"after.{e}" for e in found.shown_epochs(config.epochs))]
    asked = []
    for measure, scale, (first, second) in itertools.product(measures, ("medium", "fine"), PAIRS):
        arms = f"{scale}: {first}", f"{scale}: {second}"
        primary = measure == "accuracy" and second not in UNRELATED
        asked.append(lab.Question(*arms, measure, f"{arms[0]} − {second}", primary, scale))
    return asked


def run_bootstrap(run: lab.Run[Config]) -> lab.Found:
    """Trains what is still to do, and measures."""
    import jax

    from jaxnet.store import checkpoint

    scales = make_scales(run.config, run.dataset)
    search = [scale for scale in scales if scale.name.startswith("search")]
    if run.config.seed_network == "found":
        if (checkpoint.latest(run.folder.checkpoints) or "search").startswith("search"):
            lab.train_stages(run, [make_stage(run, s, k) for k, s in enumerate(search)])
        scales = make_scales(run.config, run.dataset, found.smallest(run, search))
    handed = {search[-1].name: f"search-{sizes_label(scales[len(search)].sizes)}"}
    stages = [make_stage(run, s, k, handed.get(s.name)) for k, s in enumerate(scales)]
    trained = lab.train_stages(run, stages)
    arms: dict[str, list[dict[str, Any]]] = {}
    for scale in scales:
        kept = jax.device_get({k: v for k, v in trained[scale.name].kept.items() if k != "small"})
        entries = found.entries(run, scale, kept, trained[scale.name].rows)
        arms |= {f"{scale.name}: {arm}" if arm else scale.name: seeds for arm, seeds in entries.items()}
    extra = {"kernel": run.config.kernel, **found.summarise(run.config, scales, arms)}
    return lab.Found(arms, questions(run.config), extra)


REPORT = Path(__file__).parent / "reports" / "bootstrap.md"
STUDY = lab.Study(
    "optimal_bootstrap",
    Config,
    run_bootstrap,
    settle=settle,
    tables=found.tables,
    numbers=found.numbers,
    plots={"search.png": found.draw_search, "bootstrap.png": found.draw_scales},
    unsaid=("seed_network",),
    opening=lambda c: f"{c.dataset}: {c.num_seeds} seeds, {len(c.hidden) + 1} architectures, then 3 scales",
    document=lab.Document(REPORT, found.values, {"": found.draw_document}),
)

if __name__ == "__main__":
    STUDY.command(__doc__)
