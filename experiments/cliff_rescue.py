"""Cliff rescue: can a network that is too sparse to learn be saved by growth?

All arms train side by side on the same seeds, in one compiled program; every few
epochs each arm changes its networks in its own way.

    python -m experiments.cliff_rescue --num-seeds 32
    python -m experiments.cliff_rescue --dataset mnist --kernel csr
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

import jaxnet
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option
from jaxnet.lab.flags import Activation, check_sizes
from jaxnet.lab.shown import left_out, number, percent, sizes_label, sound, span


@dataclass(frozen=True)
class Arm:
    """One way to treat a network that is too sparse."""

    what: str  # happens at a growth, for readers
    grow: Literal["none", "clone", "skips", "random", "output"] = "none"  # what is added then
    allocation: str = "uniform"  # of the density over the layers at the start
    scheduled: str = ""  # of jaxnet.growth.scheduled.PRESETS: a scheduler says when, not --grow-every


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
        "as skips, when the growth scheduler says so by gradient norms", "skips", scheduled="gradients"
    ),
    "scheduler-complete": Arm(
        "also by information boundaries and accuracy, with snapshots to go back to",
        "skips",
        scheduled="complete",
    ),
    "scheduler-fixes": Arm("as complete, with the original's later settings", "skips", scheduled="fixes"),
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
    ("scheduler-complete", "scheduler", "all the scheduler was described with against gradient norms"),
    ("scheduler-fixes", "scheduler-complete", "the scheduler's later settings against the first ones"),
    ("skips", "static-erdos-renyi", "skips against Erdős–Rényi from the start"),
    ("random-output", "static-erdos-renyi", "random weights into the outputs against Erdős–Rényi"),
)
"""What is compared besides every arm with ``static``: first arm, second arm, title."""


@dataclass(frozen=True)
class Config(lab.RunFlags, lab.TrainFlags, lab.SeedFlags, lab.DataFlags):
    """A network that is too sparse to learn, left alone or rescued, for many seeds at once."""

    dataset: str = changed(lab.DataFlags, "dataset", "cliff", "by name (cliff is made here), or path")
    num_seeds: int = option(32, "networks in each arm; verdicts need 12", least=2)
    batch_size: int = changed(lab.TrainFlags, "batch_size", 32)
    lr: float = changed(lab.TrainFlags, "lr", 2e-3)
    arms: tuple[str, ...] = option(tuple(ARMS), f"ways to compare with static: {', '.join(ARMS)}")
    sizes: tuple[int, ...] | None = changed(lab.NetworkFlags, "sizes")
    density: float = option(0.002, "fraction of the weights that exist at first", "in (0, 1]", fraction=True)
    init: Literal["dense-fan-in", "sparse-fan-in"] | None = changed(lab.NetworkFlags, "init")
    activation: Activation = option("tanh", "of the hidden layers")
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


def make_spec(config: Config, dataset: jaxnet.data.Dataset) -> jaxnet.NetworkSpec:
    """The network at the start."""
    how: dict[str, Any] = {"activation": config.activation, "init": lab.run.init_rule(config)}
    return lab.run.network_spec(dataset, config.sizes, density=config.density, **how)


def settle(config: Config, dataset: jaxnet.data.Dataset) -> Config:
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
    from jaxnet.growth.rescue import Rescue, RescueRules

    config, spec = run.config, make_spec(run.config, run.dataset)
    task = run.task(spec)
    # static first: the others are compared with it
    arms = {name: ARMS[name] for name in sorted(config.arms, key=lambda name: name != "static")}
    assert config.lr is not None
    how = config.grow_every, config.grow_fraction, config.max_incoming, config.detector
    shown = run.split("test" if config.protocol == "seed" else "train")  # these show the extrema
    rules = RescueRules(config.lr, config.epochs, *how)
    growth = Rescue(rules, arms, spec, task, run.keys, shown, run.compiled)
    account = growth.accounts()
    between: Any = {"between": growth.between, "account": account, "gradient_norms": bool(account)}
    stage = lab.Stage("train", config.epochs, task, growth.start, arms=tuple(arms), **between)
    trained = lab.train_stages(run, [stage])["train"]
    found = measure(run, task, tuple(arms), trained.kept)
    for name, columns in growth.told(trained.account or {}, trained.kept, run.split("test")).items():
        for i, entry in enumerate(found[name]):
            entry |= {what: column[i] for what, column in columns.items()}
    facts = {"kernel": config.kernel, "target": config.target, "start": list(growth.first)}
    return lab.Found(found, questions(tuple(arms)), {"sizes": list(spec.sizes), **facts})


def measure(run: lab.Run[Config], task: Any, arms: Sequence[str], state: Any) -> dict[str, Any]:
    """An entry per seed of every arm; a diverged network is neither rescued nor not."""
    import jax

    from jaxnet.programs import ONCE

    params, structure, test, halves = state.net.params, state.net.structure, run.split("test"), None
    if run.config.protocol == "seed":
        accuracy = lab.run.exact(np.asarray(state.best_accuracy), test.size)
    else:
        accuracy, halves = run.judge(task, params, structure, test)
    counted = run.over_seeds("the count", jaxnet.count_nonzeros, params, structure, options=ONCE)
    counts, weights, gone = jax.device_get((counted, structure.weights, state.diverged))
    # of a diverged network the best accuracy is that of an earlier epoch, or of none
    accuracy = np.where(gone, np.nan, accuracy)
    return lab.entries(
        run.seeds,
        arms,
        diverged=np.isnan(accuracy),
        accuracy=accuracy,
        accuracy_halves=halves,
        rescued=[None if np.isnan(a) else bool(a >= run.config.target) for a in accuracy],
        weights=counts["total"] - counts["bias"],
        nonzeros={**counts, "layers": np.stack([layer.num_nonzeros for layer in weights], axis=1)},
        # skips apart: they lie between layers that have no weights between them in the dense network
        density=counts["scaffold"] / task.model.spec.dense_weights,
        skip_weights=counts.get("skip", np.zeros(len(accuracy), int)),
    )


def tables(summary: dict[str, Any]) -> list[Any]:
    """A row per arm. Weights are all that exist, skips included; the density is that without them."""
    columns = ["arm", "accuracy %", "95 %", "rescued", "95 %", "weights", "density %"]
    columns += ["against static", "p", "p rescued"]
    rows: list[list[object]] = []
    for name, arm in summary["arms"].items():
        a, rate = arm["aggregate"], arm["aggregate"]["rescued"]
        weights = [number(a["weights"][end], ".0f") for end in ("min", "max")]
        row: list[object] = [name, percent(a["accuracy"]["mean"]), span(a["accuracy"]["ci95"])]
        row += [f"{rate['successes']}/{rate['n']}", span(rate["ci95"], ".0f")]
        row += ["..".join(dict.fromkeys(weights)), percent(a["density"]["mean"], ".3g")]
        asked = [c for c in summary["comparisons"] if (c["first"], c["second"]) == (name, "static")]
        row += [percent(c["difference"], "+.2f") for c in asked[:1]] + [number(c["p"], ".2g") for c in asked]
        rows.append(row + [None] * (len(columns) - len(row)))
    config, sizes = summary["config"], sizes_label(summary["sizes"])
    what = f"{config['dataset']}, {sizes}, {config['num_seeds']} paired seeds, protocol {config['protocol']}"
    return [(what, columns, rows)]


def alone(draw: Callable[..., None]) -> Callable[..., None]:
    """A plot as a picture of its own."""

    def save(path: Path, *found: Any) -> None:
        with lab.plots.picture(path, size=(7, 4.4)) as axes:
            draw(axes, *found)

    return save


def draw_epochs(axes: Any, summary: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Accuracy over the epochs: median and middle half of the seeds of every arm."""
    plots, gone = lab.plots, {(one["arm"], one["seed"]) for one in summary["diverged"]}
    here = [row for row in rows if (row["arm"], row["seed"]) not in gone]
    for name, color in zip(summary["arms"], plots.COLORS, strict=False):
        plots.draw_curve(axes, [row for row in here if row["arm"] == name], color, name)
    axes.axhline(100 * summary["target"], color="0.3", lw=1, ls="--")
    axes.set(xlabel="epoch", ylabel=f"{rows[0]['split'] if rows else ''} accuracy (%)")
    title = f"{_what(summary)}: median and middle half{left_out(len(gone))}"
    plots.finish(axes, title, "" if here else plots.EVERY, fontsize=8)


def draw_final(axes: Any, summary: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Test accuracy at the end: every seed a dot, the mean a line, how many were rescued."""
    arms = summary["arms"]
    for y, (arm, color) in enumerate(zip(arms.values(), lab.plots.COLORS, strict=False)):
        accuracy = np.sort([100 * s["accuracy"] for s in sound(arm["seeds"])])
        places = y + 0.25 * np.sin(2.4 * np.arange(len(accuracy)))
        axes.plot(accuracy, places, ".", color=color, ms=5, alpha=0.7)
        if accuracy.size:
            axes.vlines(accuracy.mean(), y - 0.38, y + 0.38, color=color, lw=2)
        rate, place = arm["aggregate"]["rescued"], {"xycoords": ("axes fraction", "data"), "va": "center"}
        axes.annotate(f"{rate['successes']}/{rate['n']}", (1.01, y), fontsize=9, **place)
    axes.axvline(100 * summary["target"], color="0.3", lw=1, ls="--")
    axes.set_yticks(range(len(arms)), list(arms))
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy (%); line: mean; dashed: target; right: rescued")
    lab.plots.finish(axes, _what(summary) + left_out(len(summary["diverged"])), grid="x")


def _what(summary: dict[str, Any]) -> str:
    sizes, n = sizes_label(summary["sizes"]), summary["config"]["num_seeds"]
    protocol = "" if (named := summary["config"]["protocol"]) == "clean" else f", protocol {named}"
    return f"{summary['provenance']['dataset']}, {sizes}, {n} seeds{protocol}"


STUDY = lab.Study(
    "cliff_rescue",
    Config,
    run_cliff,
    settle=settle,
    tables=tables,
    rates=("rescued",),
    plots={"accuracy.png": alone(draw_epochs), "rescued.png": alone(draw_final)},
    opening=lambda c: f"{c.dataset}: {c.num_seeds} seeds in {len(c.arms)} arms; results go to {c.out}",
)

if __name__ == "__main__":
    STUDY.command(__doc__)
