"""Exactness while training: does a complex, or what is called one, help a network?

Arms on the same seeds: the Gram penalty on activations (which minimises what is not exactness), the penalty
on W[k+1] W[k], the nearest complex after every epoch, training in the factors of a complex, gluing, L2.

    python -m experiments.exactness_training --num-seeds 4 --epochs 5
    python -m experiments.exactness_training --dataset mnist --epochs 5 --doc docs/results/exactness.md
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import jaxnet
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option
from jaxnet.lab.shown import number, percent, span

KINDS = {
    "none": "nothing",
    "l2": "half of the sum of all squared weights",
    "gram": "mean square of the entries of h2 h1^T / samples, of the two hidden layers (the article's)",
    "defect": "sum of the squared entries of W[k+1] W[k]",
    "nearest": "the nearest complex takes the place of the weights after every epoch, and at the end",
    "projected": "control: starts from the nearest complex, trains freely",
    "factored": "starts from the nearest complex, steps in its factors: W[k+1] W[k] stays 0",
    "gluing": "of windows of rows: what the first layer, seeing one window, makes of it again must agree",
}
"""What an arm adds, by name: penalties where they have strengths."""

STRONG = ("l2", "gram", "defect", "gluing")
"""Arms that are trained with several strengths; the one that is best on validation samples is judged."""


def strengths(name: str, values: tuple[float, ...]) -> Any:
    """A flag for the strengths of a penalty."""
    return option(values, f"strengths of {name} to choose from on validation samples")


@dataclass(frozen=True)
class Config(lab.DocumentFlags, lab.RunFlags, lab.TrainFlags, lab.SeedFlags, lab.DataFlags):
    """Exactness while training: does a complex, or what is called one, help a network?"""

    num_seeds: int = changed(lab.SeedFlags, "num_seeds", 16)
    hidden: tuple[int, int] = option((128, 64), "units of the two hidden layers")
    epochs: int = option(10, "of training", "epochs", least=1)
    l2: tuple[float, ...] = strengths("l2", (1e-4, 1e-3, 1e-2))
    gram: tuple[float, ...] = strengths("gram", (1e-2, 1e-1, 1.0))
    defect: tuple[float, ...] = strengths("defect", (1e-4, 1e-3, 1e-2))
    gluing: tuple[float, ...] = strengths("gluing", (1e-1, 1.0, 10.0))
    shots: int = option(10, "training samples per class of the transfer", "samples", least=1)
    out: str = changed(lab.RunFlags, "out", "checkpoints/exactness_training")

    def check(self) -> None:
        """Raises InputError for values that do not go together."""
        if min(self.hidden) < 1:
            raise InputError(f"--hidden must be two positive sizes: {list(self.hidden)}")
        if self.protocol != "clean":
            raise InputError("--protocol must be clean here: strengths are chosen on validation samples")
        for kind in STRONG:
            values = getattr(self, kind)
            if not values or not all(math.isfinite(v) and v > 0 for v in values):
                raise InputError(f"--{kind} must be one or more numbers above 0: {list(values)}")
        super().check()

    @property
    def arms(self) -> dict[str, tuple[str, float]]:
        """Every arm that is trained, by name: its kind and strength."""
        found = {}
        for kind in KINDS:
            for value in getattr(self, kind) if kind in STRONG else (0.0,):
                found[f"{kind} {value:g}" if kind in STRONG else kind] = (kind, value)
        return found


def make_spec(config: Config, dataset: jaxnet.data.Dataset) -> jaxnet.NetworkSpec:
    """The network: dense, two hidden layers."""
    sizes = (dataset.num_features, *config.hidden, dataset.num_classes)
    return lab.run.network_spec(dataset, sizes, density=1.0)


def settle(config: Config, dataset: jaxnet.data.Dataset) -> Config:
    """Checks what can be checked before anything is written."""
    lab.run.check_samples(config, dataset)
    side = math.isqrt(dataset.num_features)
    if side * side != dataset.num_features or side < 4:
        raise InputError(
            f"windows need square images of one channel: {dataset.name} has {dataset.num_features}"
        )
    make_spec(config, dataset)
    return dataclasses.replace(config, kernel="dense")  # masks on dense arrays


def questions() -> list[lab.Question]:
    """Every kind against none, in accuracy and transfer; Gram and factored against their plain rivals."""
    pairs = [(kind, "none") for kind in KINDS if kind != "none"]
    pairs += [("gram", "l2"), ("factored", "projected")]
    return [
        lab.Question(a, b, measure, f"{a} − {b}, {measure}")
        for measure in ("accuracy", "transfer")
        for a, b in pairs
    ]


def run_exactness(run: lab.Run[Config]) -> lab.Found:
    """Trains all arms, chooses strengths on validation samples, judges the chosen."""
    from experiments import _exactness_arms as arms

    spec = make_spec(run.config, run.dataset)
    trained = arms.train(run, spec)
    chosen, tried, looked = arms.choose(run, trained)
    facts: dict[str, Any] = {
        "tried": tried,
        "chosen": {kind: run.config.arms[name][1] for kind, name in chosen.items()},
    }
    facts |= {"kernel": run.config.kernel, "sizes": list(spec.sizes)}
    return lab.Found(arms.measure(run, trained, chosen, looked), questions(), facts)


def tables(summary: dict[str, Any]) -> list[Any]:
    """A row per arm that is judged, a row per strength."""
    rows = []
    for name, arm in summary["arms"].items():
        a = arm["aggregate"]
        cells = [
            cell for m in ("accuracy", "transfer") for cell in (percent(a[m]["mean"]), span(a[m]["ci95"]))
        ]
        norms = [number(a[f"norms.{layer}"]["mean"], ".3g") for layer in ("first", "second")]
        rows.append([name, *cells, *norms, number(a["defect"]["mean"], ".2g")])
    heads = ["arm", "accuracy %", "95 %", "transfer %", "95 %", "norm 1", "norm 2", "defect"]
    title = f"{summary['config']['dataset']}, {summary['config']['num_seeds']} paired seeds"
    tried = [
        [t["name"], percent(t["accuracy"]), *(number(t[key], ".3g") for key in ("first", "second", "defect"))]
        for t in summary["tried"]
    ]
    more = ["trained", "validation %", "norm 1", "norm 2", "defect"]
    return [(title, heads, rows), ("strengths, on validation samples", more, tried)]


def draw_norms(path: Path, config: Any, groups: Any, comparisons: Any) -> None:
    """Norms of features against the strength of the penalty."""
    (summary,) = groups["run"].values()
    plots = lab.plots
    with plots.picture(path, 1, 2, size=(11, 4.2)) as axes:
        for one, layer in zip(axes, ("first", "second"), strict=True):
            none = next(t for t in summary["tried"] if t["kind"] == "none")[layer]
            one.axhline(none, color="0.45", ls="--", lw=1, label="none")
            for kind, color in zip(STRONG, plots.COLORS[1:], strict=False):
                here = [t for t in summary["tried"] if t["kind"] == kind]
                one.loglog(
                    [t["strength"] for t in here], [t[layer] for t in here], "o-", color=color, label=kind
                )
            one.set(xlabel="strength of the penalty", ylabel="mean norm of a sample's features")
            plots.finish(one, f"{layer} hidden layer", fontsize=8)


def values(config: Any, groups: Any, comparisons: Any) -> dict[str, Any]:
    """What the template has besides."""
    (summary,) = groups["run"].values()
    none = summary["arms"]["none"]["aggregate"]
    gram = [t for t in summary["tried"] if t["kind"] == "gram"]
    plain = next(t for t in summary["tried"] if t["kind"] == "none")
    shrunk = [{**t, "shares": [t[k] / plain[k] for k in ("first", "second")]} for t in gram]
    ends = {
        k: v
        for k, v in summary["chosen"].items()
        if k in STRONG and v in (getattr(config, k)[0], getattr(config, k)[-1])
    }
    return {"kinds": KINDS, "none": none, "shrunk": shrunk, "ends": ends, "np": np}


REPORT = Path(__file__).parent / "reports" / "exactness.md"
STUDY = lab.Study(
    "exactness_training",
    Config,
    run_exactness,
    settle=settle,
    tables=tables,
    opening=lambda c: f"{c.dataset}: {c.num_seeds} seeds of {len(c.arms)} arms; results go to {c.out}",
    document=lab.Document(REPORT, values, {"": lab.draw_comparisons, "_norms": draw_norms}),
)

if __name__ == "__main__":
    STUDY.command(__doc__)
