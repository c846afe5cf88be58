"""Compression: what goes first when a network is pruned or rounded, and does refit beat the score?

A trained network is pruned by every score, with and without refit and tuning, beside small and sparse
networks trained from scratch for as long with as many weights; its weights get fewer bits, by several rules.

    python -m experiments.compress --num-seeds 4
    python -m experiments.compress --dataset mnist --facts 500 --samples 2000 --doc docs/results/compress.md
    python -m experiments.compress --dataset mnist --from-checkpoint checkpoints/hunt/winners/000001.*
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import jaxnet
from experiments import _winner
from experiments._compress_shown import RULES, bit_rows, draw, pruned_rows
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option
from jaxnet.lab.flags import check_sizes
from jaxnet.lab.shown import arms_and_verdicts, number

if TYPE_CHECKING:
    from jaxnet.data import Dataset


@dataclass(frozen=True)
class Config(lab.DocumentFlags, lab.RunFlags, lab.TrainFlags, lab.SeedFlags, lab.DataFlags):
    """What goes first when a network is pruned or rounded?"""

    sizes: tuple[int, ...] | None = option(
        None, "units per layer; auto: 256,128 hidden ones, for small images 48,32", none="auto"
    )
    ratios: tuple[float, ...] = option((0.5, 0.7, 0.9, 0.95), "of the weights, that go", "in [0, 1)")
    per: Literal["global", "layer", "row"] = option(
        "global", "among which weights those of the smallest scores go"
    )
    num_seeds: int = option(12, "networks of every arm; verdicts need 12", least=1)
    epochs: int = option(10, "of training", "epochs", least=1)
    tune_epochs: int = option(1, "of training after pruning", "epochs", least=1)
    facts: int = option(
        100, "training images with labels drawn at random, in a second network", "images", least=1
    )
    facts_epochs: int = option(40, "of training beyond --epochs, to learn them", "epochs", least=0)
    samples: int = option(500, "training images for scores, refit and circuits", "images", least=2)
    ridge: float = option(0.01, "of refit, relative to the inputs", above=0)
    keep: float = option(0.5, "of what stays, that is a circuit's whatever it scores", fraction=True)
    bits: tuple[float, ...] = option((2.0, 3.0, 4.0), "budgets per weight", "bits")
    from_checkpoint: str | None = _winner.flag("compress")
    density: float | None = option(None, "of the checkpoint", cli=False)
    allocation: str | None = option(None, "of the checkpoint", cli=False)
    init: str | None = option(None, "of the checkpoint", cli=False)
    activation: str | None = option(None, "of the checkpoint", cli=False)
    checkpoint_fingerprint: str | None = option(None, "of the checkpoint", cli=False)
    lr: float = changed(lab.TrainFlags, "lr", 3e-3)
    out: str = changed(lab.RunFlags, "out", "checkpoints/compress")

    def check(self) -> None:
        """Raises InputError for values that do not go together."""
        check_sizes(self.sizes, 3)
        if not self.ratios or len(set(self.ratios)) < len(self.ratios):
            raise InputError(f"--ratios must be different numbers, at least one: {list(self.ratios)}")
        for ratio in self.ratios:
            if not (math.isfinite(ratio) and 0 <= ratio < 1):
                raise InputError(f"--ratios must be at least 0 and below 1: {ratio}")
        if not self.bits or not all(math.isfinite(b) and b >= 1 for b in self.bits):
            raise InputError(f"--bits: a weight needs at least 1 bit: {list(self.bits)}")
        super().check()


def settle(config: Config, dataset: Dataset) -> Config:
    """Checks what can be checked before anything is written."""
    from jaxnet.circuits import check_network

    lab.run.check_samples(config, dataset)
    if config.from_checkpoint is not None:
        config = _winner.adopt(config, dataset)
        winner = _winner.of(config)
        assert winner is not None
        check_network(winner.params, str(winner.path))
    spec = make_spec(config, dataset)
    missing = np.setdiff1d(np.arange(dataset.num_classes), dataset.y_train[: config.samples])
    if missing.size:
        raise InputError(
            f"class {missing[0]} has no samples among the first {config.samples}: raise --samples"
        )
    config = dataclasses.replace(config, sizes=spec.sizes)
    if config.from_checkpoint is None:
        return dataclasses.replace(config, kernel="dense")
    return lab.run.resolve_kernel(config, spec, config.num_seeds)


def make_spec(config: Any, dataset: Dataset) -> jaxnet.NetworkSpec:
    """The network: dense, or the checkpoint's."""
    hidden = (256, 128) if dataset.num_features > 256 else (48, 32)
    fields = {name: getattr(config, name) for name in ("allocation", "activation", "init")}
    fields = {name: value for name, value in fields.items() if value is not None}
    return lab.run.network_spec(dataset, config.sizes, hidden, density=config.density or 1.0, **fields)


def run_compress(run: lab.Run[Config]) -> lab.Found:
    """Trains, compresses in every way, trains the rivals; all that was measured is on disk at once."""
    from experiments import _compress_measures as measures
    from experiments._compress_run import WHOLE, Compression

    config, seeds = run.config, run.seeds
    made = Compression(run, make_spec(config, run.dataset))
    by_ratio = [functools.partial(measures.pruned, ratio=ratio) for ratio in config.ratios]
    nets = measures.rounds(made, [measures.whole, *by_ratio, measures.rounded])
    arms, chosen = dict[str, Any](), dict[str, Any]()
    for row in run.folder.read_rows():
        found = {key: np.array(row[key], float) for key in ("accuracy", "remembered", "kept") if key in row}
        arms |= lab.entries(seeds, [row["arm"]], diverged=np.array(row["diverged"]), **found)
        if "bits" in row:
            chosen[row["arm"]] = row["bits"]
    sizes = made.counts(nets[WHOLE].structure)
    known = [entry["remembered"] for entry in arms.get("facts: whole", ())]
    extra: dict[str, Any] = {
        "kernel": config.kernel,
        "sizes": list(config.sizes or ()),
        "bits_chosen": chosen,
        "weights": int(sizes[0].sum()),
        "known": known or None,
    }
    return lab.Found(arms, questions(config), extra)


def questions(config: Config) -> list[lab.Question]:
    """Refit against scores, large against small, facts against rules, circuits against chance, bits."""
    asked = list[lab.Question]()
    for ratio in config.ratios:
        label = f"{ratio:g}: "

        def ask(first: str, second: str, measure: str = "accuracy", title: str = "") -> None:
            pair = label + first, label + second  # noqa: B023
            asked.append(lab.Question(*pair, measure, title or f"{first} − {second}", where=f"{ratio:g}"))  # noqa: B023

        ask("random + refit", "magnitude")
        ask("random + refit", "weight x activation")
        ask("weight x activation", "magnitude")
        ask("weight x activation + refit", "random + refit")
        ask("weight x activation + refit", "magnitude + refit")
        ask("circuit kept", "random kept")
        if config.from_checkpoint is None:
            best = "weight x activation + refit + tuned"
            for rival in ("small", "sparse", "rigl"):
                ask(
                    best,
                    f"{rival} from scratch",
                    title=f"large, pruned, refitted, tuned − {rival} from scratch",
                )
            ask("facts kept", "rules kept", "kept", "facts kept − rules kept")
    for budget in config.bits:
        for rule in RULES[1:]:
            pair = f"{budget:g} bits: {rule}", f"{budget:g} bits: uniform"
            asked.append(lab.Question(*pair, "accuracy", f"{rule} − uniform bits", where=f"{budget:g} bits"))
    return asked


def tables(summary: dict[str, Any]) -> list[Any]:
    """A row per way, a column per ratio; the bits."""
    ratios = [f"{r:g}" for r in summary["config"]["ratios"]]
    return [
        ("test accuracy % by share pruned", ["pruned by", *ratios], pruned_rows(summary)),
        (
            "test accuracy % by bits per weight",
            ["rule", *map(str, summary["config"]["bits"])],
            bit_rows(summary),
        ),
        *arms_and_verdicts({**summary, "arms": {}})[1:],
    ]


def values(config: Config, groups: Any, comparisons: Any) -> dict[str, Any]:
    """What the template has besides."""
    (summary,) = groups["run"].values()
    bits = [[name, *(number(b, ".1f") for b in chosen)] for name, chosen in summary["bits_chosen"].items()]
    return {
        "rows": pruned_rows(summary),
        "bit_rows": bit_rows(summary),
        "ratios": [f"{r:g}" for r in config.ratios],
        "budgets": [f"{b:g}" for b in config.bits],
        "chosen": bits,
        "layers": [f"layer {n + 1}" for n in range(len(summary["sizes"]) - 1)],
        "whole": summary["arms"]["whole"]["aggregate"]["accuracy"],
        "facts": summary["arms"].get("facts: whole"),
    }


REPORT = Path(__file__).parent / "reports" / "compress.md"
STUDY = lab.Study(
    "compress",
    Config,
    run_compress,
    settle=settle,
    tables=tables,
    opening=lambda c: f"{c.dataset}: {c.num_seeds} seeds; results go to {c.out}",
    known=_winner.known,
    document=lab.Document(REPORT, values, {"": draw, "_differences": lab.draw_comparisons}),
)

if __name__ == "__main__":
    STUDY.command(__doc__)
