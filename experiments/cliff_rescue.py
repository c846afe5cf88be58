"""Cliff rescue: can a network that is too sparse to learn be saved by growth?

All arms train side by side on the same seeds, in one compiled program; every few
epochs each arm changes its networks in its own way.

    python -m experiments.cliff_rescue --num-seeds 32
    python -m experiments.cliff_rescue --dataset mnist --kernel csr
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import jaxnet
from experiments import _cliff_plots as plots
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option
from jaxnet.lab.flags import check_sizes
from jaxnet.lab.shown import number, percent, span

if TYPE_CHECKING:
    from jaxnet.data import Dataset
    from jaxnet.nn.mlp import NetworkSpec


@dataclass(frozen=True)
class Arm:
    """One way to treat a network that is too sparse.

    Attributes:
      what: what happens at a growth, for readers.
      grow: what is added then: ``none``, ``clone`` (and as many pruned), ``skips``
        (as far as they can be routed, the rest at random), ``random`` (into each hidden
        layer) or ``output`` (at random into the output layer).
      allocation: how the density is shared out over the layers at the start.
      scheduled: the growth scheduler says when, instead of ``--grow-every``.
    """

    what: str
    grow: Literal["none", "clone", "skips", "random", "output"] = "none"
    allocation: str = "uniform"
    scheduled: bool = False


ARMS = {
    "static": Arm("nothing is added"),
    "clone-and-prune": Arm(
        "low extrema get the strongest inputs of high ones; as many of the weakest weights go", "clone"
    ),
    "skips": Arm(
        "skip connections from high extrema, 5 into a unit at most; the rest at random, hidden layers",
        "skips",
    ),
    "scheduler": Arm(
        "as skips, when the growth scheduler says so (the original's settings)", "skips", scheduled=True
    ),
    "random": Arm("as many weights as skips, at random into the hidden layers", "random"),
    "random-output": Arm("control: as many weights as skips, at random into the output layer", "output"),
    "static-erdos-renyi": Arm(
        "control: nothing; the weights of the start are shared out by Erdős–Rényi", "none", "erdos-renyi"
    ),
}
"""The arms by name; the last two are controls: the place, and the allocation from the start."""

ASKED = (
    ("skips", "random-output", "skips against as many weights at random into the outputs"),
    ("skips", "random", "skips against random weights in the hidden layers"),
    ("scheduler", "skips", "skips by the scheduler against skips at fixed epochs"),
    ("skips", "static-erdos-renyi", "skips against Erdős–Rényi from the start"),
    ("random-output", "static-erdos-renyi", "random weights into the outputs against Erdős–Rényi"),
)
"""What is compared besides every arm with ``static``: first arm, second arm, title."""


@dataclass(frozen=True)
class Config(lab.RunFlags, lab.TrainFlags, lab.SeedFlags, lab.DataFlags):
    """A network that is too sparse to learn, left alone or rescued, for many seeds at once."""

    dataset: str = changed(
        lab.DataFlags, "dataset", "cliff", "data set by name (cliff is made here), or path"
    )
    num_seeds: int = option(32, "networks in each arm; verdicts need 12", least=2)
    batch_size: int = changed(lab.TrainFlags, "batch_size", 32)
    lr: float = changed(lab.TrainFlags, "lr", 2e-3)
    arms: tuple[str, ...] = option(tuple(ARMS), f"ways to compare with static: {', '.join(ARMS)}")
    sizes: tuple[int, ...] | None = changed(lab.NetworkFlags, "sizes")
    density: float = option(0.002, "fraction of the weights that exist at first", "in (0, 1]", fraction=True)
    init: Literal["dense-fan-in", "sparse-fan-in"] | None = changed(lab.NetworkFlags, "init")
    activation: Literal["relu", "tanh", "sigmoid", "gelu"] = option("tanh", "of the hidden layers")
    epochs: int = option(50, "epochs of training", "epochs", least=1)
    grow_every: int = option(5, "epochs between two growths", "epochs", least=1)
    grow_fraction: float = option(
        0.05, "weights added at a growth, per weight that each hidden layer had", "in (0, 1]", fraction=True
    )
    max_incoming: int = option(5, "skip connections into one unit at most", least=1)
    target: float = option(0.356, "test accuracy that counts as a rescue", "in (0, 1)")
    detector: Literal["original", "adaptive", "quantile"] = changed(lab.ExtremaFlags, "detector")
    out: str = changed(lab.RunFlags, "out", "checkpoints/cliff_rescue")

    def check(self) -> None:
        """Raises InputError for values out of range, or that do not go together."""
        if not 0 < self.target < 1:
            raise InputError(f"--target must be above 0 and below 1: {self.target}")
        unknown = [arm for arm in self.arms if arm not in ARMS]
        if unknown:
            raise InputError(f"--arms: unknown arm {unknown[0]!r}: choose from {', '.join(ARMS)}")
        if "static" not in self.arms or len(set(self.arms)) != len(self.arms):
            raise InputError("--arms must name static, which the others are compared with, and each arm once")
        check_sizes(self.sizes, 4, "(skip connections need two hidden layers)")
        super().check()


def make_spec(config: Config, dataset: Dataset) -> NetworkSpec:
    """The network at the start."""
    fields: dict[str, Any] = {"density": config.density, "activation": config.activation}
    return lab.run.network_spec(dataset, config.sizes, **fields, init=lab.run.init_rule(config))


def settle(config: Config, dataset: Dataset) -> Config:
    """Settles the kernel; checks what can be checked."""
    spec = make_spec(config, dataset)
    for name in config.arms:
        try:
            jaxnet.allocate(spec.sizes, spec.density, ARMS[name].allocation)
        except ValueError as error:
            raise InputError(f"arm {name}: {error}") from None
    lab.run.check_samples(config, dataset)
    return lab.run.resolve_kernel(config, spec, config.num_seeds * len(config.arms))


def questions(arms: Sequence[str], where: str = "") -> list[lab.Question]:
    """What is asked of these arms; in a document of several data sets (``where``) they are named with it."""
    found = [(arm, "static", "accuracy", f"{arm} − static") for arm in arms if arm != "static"]
    found += [(arm, "static", "rescued", f"{arm} − static, rescued") for arm, *_ in found]
    found += [(a, b, "accuracy", title) for a, b, title in ASKED if a in arms and b in arms]
    named = f"{where}: " if where else ""
    return [
        lab.Question(named + a, named + b, measure, title, primary=measure == "accuracy", where=where)
        for a, b, measure, title in found
    ]


def run_cliff(run: lab.Run[Config]) -> lab.Found:
    """Trains and grows all arms, and judges them."""
    from experiments._cliff_arms import Growth

    config, spec = run.config, make_spec(run.config, run.dataset)
    task = jaxnet.Task(jaxnet.MLP(spec, jaxnet.kernels.product(config.kernel)), config.batch_size)
    # static first: the others are compared with it
    arms = {name: ARMS[name] for name in sorted(config.arms, key=lambda name: name != "static")}
    growth = Growth(run, arms, spec, task)
    account = growth.accounts()
    stage = lab.Stage("train", config.epochs, task, growth.start, arms=tuple(arms), between=growth.between)
    stage = dataclasses.replace(stage, account=account, gradient_norms=account is not None)
    trained = lab.train_stages(run, [stage])["train"]
    entries, n = measure(run, task, trained.kept), len(run.seeds)
    found = {name: entries[i * n : (i + 1) * n] for i, name in enumerate(arms)}
    for place in growth.places(scheduled=True):
        for entry, times in zip(found[list(arms)[place]], trained.account.growths.tolist(), strict=True):
            entry["growths"] = times
    facts = {"kernel": config.kernel, "target": config.target, "start": list(growth.first)}
    return lab.Found(found, questions(tuple(arms)), {"sizes": list(spec.sizes), **facts})


def measure(run: lab.Run[Config], task: Any, state: Any) -> list[dict[str, Any]]:
    """An entry per network, in their order; a diverged one is neither rescued nor not."""
    import jax

    from jaxnet.programs import ONCE

    params, structure, halves = state.net.params, state.net.structure, None
    if run.config.protocol == "seed":
        accuracy = lab.run.exact(np.asarray(state.best_accuracy), run.split("test").size)
    else:
        accuracy, halves = run.judge(task, params, structure, run.split("test"))
    counted = run.over_seeds("the count", jaxnet.count_nonzeros, params, structure, options=ONCE)
    counts, weights, gone = jax.device_get((counted, structure.weights, state.diverged))
    # of a diverged network the best accuracy is that of an earlier epoch, or of none
    accuracy = np.where(gone, np.nan, accuracy)
    entries = []
    for i, value in enumerate(accuracy.tolist()):
        nonzeros = {name: int(of_all[i]) for name, of_all in counts.items()}
        diverged = not np.isfinite(value)
        entries.append(
            {
                "seed": run.seeds[i % len(run.seeds)],
                "diverged": diverged,
                "accuracy": value,
                **({} if halves is None else {"accuracy_halves": halves[i].tolist()}),
                "rescued": None if diverged else value >= run.config.target,
                "weights": nonzeros["total"] - nonzeros["bias"],
                "nonzeros": {**nonzeros, "layers": [int(w.num_nonzeros[i]) for w in weights]},
                # skips apart: they lie between layers that have no weights between them in the dense network
                "density": nonzeros["scaffold"] / task.model.spec.dense_weights,
                "skip_weights": nonzeros.get("skip", 0),
            }
        )
    return entries


def tables(summary: dict[str, Any]) -> list[Any]:
    """A row per arm. Weights are all that exist, skips included; the density is that without them."""
    columns = ["arm", "accuracy %", "95 %", "rescued", "95 %", "weights", "density %"]
    columns += ["against static", "p", "p rescued"]
    rows: list[list[object]] = []
    for name, arm in summary["arms"].items():
        a = arm["aggregate"]
        weights = [number(a["weights"][end], ".0f") for end in ("min", "max")]
        row: list[object] = [name, percent(a["accuracy"]["mean"]), span(a["accuracy"]["ci95"])]
        row += [f"{a['rescued']['successes']}/{a['rescued']['n']}", span(a["rescued"]["ci95"], ".0f")]
        row += ["..".join(dict.fromkeys(weights)), percent(a["density"]["mean"], ".3g")]
        asked = [c for c in summary["comparisons"] if (c["first"], c["second"]) == (name, "static")]
        row += [percent(c["difference"], "+.2f") for c in asked[:1]] + [number(c["p"], ".2g") for c in asked]
        rows.append(row + [None] * (len(columns) - len(row)))
    config, sizes = summary["config"], "-".join(map(str, summary["sizes"]))
    what = f"{config['dataset']}, {sizes}, {config['num_seeds']} paired seeds, protocol {config['protocol']}"
    return [(what, columns, rows)]


STUDY = lab.Study(
    "cliff_rescue",
    Config,
    run_cliff,
    settle=settle,
    tables=tables,
    rates=("rescued",),
    plots={"accuracy.png": plots.alone(plots.draw_epochs), "rescued.png": plots.alone(plots.draw_final)},
    opening=lambda c: f"{c.dataset}: {c.num_seeds} seeds in {len(c.arms)} arms; results go to {c.out}",
)

if __name__ == "__main__":
    STUDY.command(__doc__)
