"""Compression: what goes first when a network is pruned or rounded, and does refit beat the score?

A trained network is pruned by every score, with and without refit and tuning, beside small and sparse
networks trained from scratch for as long with as many weights; its weights get fewer bits, by several rules.

    python -m experiments.compress --num-seeds 4
    python -m experiments.compress --dataset mnist --facts 500 --doc docs/results/compress.md
    python -m experiments.compress --dataset mnist --from-checkpoint checkpoints/hunt/winners/000001.*
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import jaxnet
from experiments import _winner
from experiments._compress_shown import RULES, SCORES, bit_rows, draw, pruned_rows
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option
from jaxnet.lab.flags import check_sizes
from jaxnet.lab.shown import arms_and_verdicts, number

if TYPE_CHECKING:
    from jaxnet.data import Dataset


LEARNED = 0.5
"""Of the facts: what of them is kept is not asked of a network that knows fewer."""


@dataclass(frozen=True)
class Config(lab.DocumentFlags, lab.RunFlags, lab.TrainFlags, lab.SeedFlags, lab.DataFlags):
    """What goes first when a network is pruned or rounded?"""

    sizes: tuple[int, ...] | None = option(
        None, "units per layer; auto: 256,128 hidden ones, for small images 48,32", none="auto"
    )
    ratios: tuple[float, ...] = option((0.5, 0.7, 0.9, 0.95), "of the weights, that go", "in [0, 1)")
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
    from experiments import _compress_run as way

    config, seeds = run.config, run.seeds
    made = way.Compression(run, make_spec(config, run.dataset))
    parts = [whole, *(functools.partial(pruned, ratio=r) for r in config.ratios), rounded]
    nets = way.rounds(made, parts)
    arms, chosen = dict[str, Any](), dict[str, Any]()
    for row in run.folder.read_rows():
        measures = {
            name: np.array(row[name], float) for name in ("accuracy", "remembered", "kept") if name in row
        }
        # what a network answers after its weights have diverged is not a number
        arms |= lab.entries(seeds, [row["arm"]], diverged=np.array(row["diverged"]), **measures)
        if "bits" in row:
            chosen[row["arm"]] = row["bits"]
    sizes = made.counts(nets[way.WHOLE].structure)
    known = [entry["remembered"] for entry in arms.get("facts: whole", ())]
    extra: dict[str, Any] = {
        "kernel": config.kernel,
        "sizes": list(config.sizes or ()),
        "bits_chosen": chosen,
        "weights": int(sizes[0].sum()),
        "known": known or None,
    }
    return lab.Found(arms, questions(config), extra)


def row(arm: str, judged: np.ndarray, **more: Any) -> dict[str, Any]:
    """Of an arm, what was measured of every seed; it has diverged where ``judged`` is not a number."""
    return {
        "arm": arm,
        "diverged": np.isnan(judged).tolist(),
        **{name: np.asarray(values).tolist() for name, values in more.items()},
    }


def whole(made: Any, nets: dict[str, Any]) -> list[dict[str, Any]]:
    """Networks before anything is done to them."""
    net, facts = nets["whole"], nets.get("facts")
    accuracy = made.accuracy(net.params, net.structure)
    rows = [row("whole", accuracy, accuracy=accuracy)]
    if facts is not None:
        accuracy = made.accuracy(facts.params, facts.structure)
        known = made.remembered(facts.params, facts.structure)
        rows.append(row("facts: whole", accuracy, accuracy=accuracy, remembered=known))
    return rows


def pruned(made: Any, nets: dict[str, Any], ratio: float) -> list[dict[str, Any]]:
    """A share of the weights gone, in every way; rivals of as many weights."""
    import jax.numpy as jnp

    net, rows, label = nets["whole"], list[dict[str, Any]](), f"{ratio:g}: "

    def note(name: str, params: Any, structure: Any) -> None:
        accuracy = made.accuracy(params, structure)
        rows.append(row(label + name, accuracy, accuracy=accuracy))

    scores = made.all_scores(net)
    for name in SCORES:
        params, left = made.pruned(net, scores[name], ratio)
        note(name, params, left)
        note(f"{name} + tuned", made.tuned(params, left), left)
        params = made.refit(net, params, left)
        note(f"{name} + refit", params, left)
        note(f"{name} + refit + tuned", made.tuned(params, left), left)
    counts = jnp.asarray(made.counts(left).sum(1))
    if made.winner is None:
        for kind in ("small", "sparse", "rigl"):
            note(f"{kind} from scratch", *made.from_scratch(counts, kind))
    held = jnp.asarray(np.floor(made.config.keep * np.asarray(counts)).astype(np.int32))[:, None]
    there = exists(made, net)
    for what, by in (("circuit", made.circuit(net)), ("random", scores["random"])):
        place = jnp.argsort(jnp.argsort(-jnp.where(there, by, -jnp.inf), 1), 1)
        keep = (place < held) & there
        note(f"{what} kept", *made.pruned(net, scores["magnitude"], ratio, keep))
    return rows + (forgotten(made, nets["facts"], ratio, label) if "facts" in nets else [])


def forgotten(made: Any, facts: Any, ratio: float, label: str) -> list[dict[str, Any]]:
    """What is left of facts and of rules, by magnitude."""
    chance = 1 / made.run.dataset.num_classes  # what is known by chance is neither kept nor lost
    known = made.remembered(facts.params, facts.structure)
    rules = made.accuracy(facts.params, facts.structure)
    params, left = made.pruned(facts, made.scores("magnitude", facts), ratio)
    still = made.accuracy(params, left)
    kept = (made.remembered(params, left) - chance) / np.maximum(known - chance, 1e-9)
    share = (still - chance) / np.maximum(rules - chance, 1e-9)
    rows = [row(label + "facts network", still, accuracy=still)]
    for name, values in (("facts", kept), ("rules", share)):
        rows.append(row(label + name + " kept", still, kept=np.where(known < LEARNED, np.nan, values)))
    return rows


def rounded(made: Any, nets: dict[str, Any]) -> list[dict[str, Any]]:
    """Fewer bits, shared out by every rule."""
    import jax.numpy as jnp

    from jaxnet import compress

    net, rows = nets["whole"], list[dict[str, Any]]()
    sens, hessian = made.sensitivities(net)
    sizes = made.counts(net.structure)
    tables = {"sensitivity": sens, "Hessian trace": hessian}
    tables["size rule"] = np.broadcast_to(4.0 ** -np.array(compress.BITS), sens.shape)
    for budget in made.config.bits:
        for rule in RULES:
            if rule == "uniform":
                bits = np.full(sizes.shape, max(b for b in compress.BITS if b <= budget))
            else:
                found = [
                    compress.allocate_bits(s, n, budget) for s, n in zip(tables[rule], sizes, strict=True)
                ]
                bits = np.stack(found)
            accuracy = made.rounded(net, jnp.asarray(bits))
            rows.append(row(f"{budget:g} bits: {rule}", accuracy, accuracy=accuracy, bits=bits.mean(0)))
    return rows


def exists(made: Any, net: Any) -> Any:
    """``(seed, E)``, which weights there are."""
    from jaxnet import circuits

    return made.together("weights", circuits.existing, (True, True), net.params, net.structure)


def questions(config: Config) -> list[lab.Question]:
    """Refit against scores, large against small, facts against rules, circuits against chance, bits."""
    asked = list[lab.Question]()
    for ratio in config.ratios:
        label = f"{ratio:g}: "

        def ask(first: str, second: str, measure: str = "accuracy", title: str = "") -> None:
            pair = label + first, label + second  # noqa: B023
            asked.append(lab.Question(*pair, measure, title or f"{first} − {second}", where=f"{ratio:g}"))  # noqa: B023

        ask("random + refit", "magnitude")
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
