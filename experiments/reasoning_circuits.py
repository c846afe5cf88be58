"""Circuits of reasoning: which weights of a decoder carry modus ponens, and what do they share?

One decoder learns token suites; circuits are found in it, in one that has learned shuffled answers by
heart and in one that was never trained. Beside them: overlap, bridges, backups, transplants between seeds,
bits for attention or for perceptrons first, and one suite protected while another is learned.

    python -m experiments.reasoning_circuits
    python -m experiments.reasoning_circuits --width 64 --layers 4 --steps 8000 --samples 65536 --suites all
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments._reasoning_kinds import ARMS, HELD, MOVED, ROUND, RULES, SUITES
from experiments._reasoning_shown import draw_overlaps, draw_sizes, tables, values
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option


@dataclass(frozen=True)
class Config(lab.DocumentFlags, lab.RunFlags, lab.SeedFlags):
    """Which weights of a decoder carry modus ponens, and what do they share?"""

    num_seeds: int = changed(lab.SeedFlags, "num_seeds", 2, "networks; verdicts need 12")
    suites: tuple[str, ...] = option(
        ("copy", "induction", "agreement", "tense"), f"all, or two or more of: {', '.join(SUITES)}"
    )
    width: int = option(32, "units of the stream", least=1)
    heads: int = option(4, "of every attention", least=1)
    layers: int = option(2, "of attention and perceptron", least=1)
    windows: tuple[str, ...] | None = option(
        None, "what each layer's attention sees: full, a number of tokens, or top-NUMBER", none="all full"
    )
    density: float = option(1.0, "fraction of the weights that exist", "in (0, 1]", fraction=True)
    lr: float = option(3e-3, "Adam's highest learning rate", above=0)
    per_suite: int = option(8, "samples of every suite in a step", "samples", least=1)
    samples: int = option(4096, "of every suite to learn from", "samples", least=1)
    test_samples: int = option(256, "of every suite to judge by", "samples", least=2)
    steps: int = option(200, f"of learning all suites but the last one; a multiple of {ROUND}", "steps")
    last_steps: int = option(100, f"of learning the last one, too; a multiple of {ROUND}", "steps")
    shuffled_steps: int = option(
        100, f"of learning shuffled answers by heart; a multiple of {ROUND}", "steps"
    )
    last: str = option("tense", "suite that is learned last")
    protect: str = option("copy", "suite that is protected meanwhile")
    ewc: float = option(1.0, "strength of EWC's penalty, of weights as important as the mean one", above=0)
    look: int = option(16, "samples of every suite that circuits are found on", "samples", least=2)
    fraction: float = option(0.9, "of a network's own gap, that a circuit must recover", fraction=True)
    chunks: int = option(16, "parts of a circuit that are tried to be left out, at the finest", least=0)
    nodes: int = option(4, "of integrated gradients", least=1)
    parts: int = option(4, "shares of a perceptron, beside the heads, that may be bridges", least=1)
    budgets: tuple[int, ...] = option((3, 4), "mean bits per weight")
    out: str = changed(lab.RunFlags, "out", "checkpoints/reasoning_circuits")

    @property
    def suite_names(self) -> tuple[str, ...]:
        """The suites that are asked for, in the order of all."""
        asked = [name for one in self.suites for name in (SUITES if one == "all" else (one,))]
        return tuple(sorted(dict.fromkeys(asked), key=SUITES.index))

    def check(self) -> None:
        """Raises InputError for values that do not go together."""
        for flag, names in (("suites", self.suites), ("last", (self.last,)), ("protect", (self.protect,))):
            for name in names:
                if name not in SUITES and not (flag == "suites" and name == "all"):
                    raise InputError(f"--{flag}: unknown suite {name!r}: choose from {', '.join(SUITES)}")
        if len(self.suite_names) < 2:
            raise InputError(f"--suites must be two or more: {', '.join(self.suites)}")
        for flag in ("last", "protect"):
            if (name := getattr(self, flag)) not in self.suite_names:
                raise InputError(f"--{flag} {name} must be one of the suites: {', '.join(self.suite_names)}")
        if self.last == self.protect:
            raise InputError(f"--last and --protect must differ: {self.last}")
        for flag in ("steps", "last_steps", "shuffled_steps"):
            if (value := getattr(self, flag)) < ROUND or value % ROUND:
                raise InputError(f"--{flag.replace('_', '-')} must be a multiple of {ROUND}: {value}")
        if not self.fraction < 1:
            raise InputError(f"--fraction must be below 1: {self.fraction}")
        if not self.look <= self.samples:
            raise InputError(f"--look must be at most --samples: {self.look}, {self.samples}")
        if (
            not self.budgets
            or len(set(self.budgets)) < len(self.budgets)
            or not (min(self.budgets) >= 3 and max(self.budgets) <= 6)
        ):
            raise InputError(f"--budgets must be different numbers from 3 to 6: {list(self.budgets)}")
        if self.width % self.heads:
            raise InputError(f"--heads must divide --width: {self.heads} heads, width {self.width}")
        if 4 * self.width % self.parts:
            raise InputError(f"--parts must divide a perceptron's {4 * self.width} units: {self.parts}")
        super().check()


def make_spec(config: Config, length: int) -> Any:
    """The decoder.

    Raises:
      InputError: windows that it cannot have, or heads of an odd width.
    """
    from jaxnet import suites
    from jaxnet.transformer import Spec, window_of

    try:
        windows = tuple(window_of(word) for word in config.windows or ())
        return Spec(suites.VOCAB, length, config.width, config.heads, config.layers, windows)
    except ValueError as error:
        raise InputError(str(error)) from None


def load(config: Config) -> Any:
    """The samples of all suites."""
    from experiments import _reasoning_data

    return _reasoning_data.load(config)


def settle(config: Config, samples: Any) -> Config:
    """Checks what can be checked before anything is written."""
    from jaxnet import environment

    environment.check()
    make_spec(config, samples.length)
    return dataclasses.replace(config, kernel="dense")  # masks on dense arrays


def run_reasoning(run: lab.Run[Config]) -> lab.Found:
    """Trains, finds circuits in every arm, measures."""
    from experiments import _reasoning_found, _reasoning_run

    made = _reasoning_run.Reasoning(run, make_spec(run.config, run.dataset.length))  # type: ignore[attr-defined]
    state = _reasoning_run.rounds(made)
    arms, facts = _reasoning_found.found(made, state)
    return lab.Found(arms, questions(run.config), facts)


def questions(config: Config) -> list[lab.Question]:
    """Against nonsense; overlap against chance; transplants; rules for bits; ways to protect."""
    less: dict[str, Any] = {"higher_is_better": False}
    asked = [
        lab.Question(ARMS[0], rival, f"size beside {rival}", f"size of a circuit, trained − {rival}", **less)
        for rival in ARMS[1:]
    ]
    asked += [lab.Question(ARMS[0], "random circuits", "overlap", "overlap, circuits − random masks")]
    if config.num_seeds > 1:
        pairs = [(MOVED[1], MOVED[0]), (MOVED[1], MOVED[2])]
        asked += [
            lab.Question(f"moved: {a}", f"moved: {b}", "loss", f"loss after a transplant, {a} − {b}", **less)
            for a, b in pairs
        ]
    for budget in config.budgets:
        where = f"{budget} bits"
        asked += [
            lab.Question(
                f"{where}: {RULES[0]}", f"{where}: {rule}", "accuracy", f"{RULES[0]} − {rule}", where=where
            )
            for rule in RULES[1:]
        ]
    pairs = [(HELD[1], HELD[0]), (HELD[1], HELD[2]), (HELD[3], HELD[0])]
    for measure, what in (("kept", "protected suite"), ("learned", "new suite")):
        for a, b in pairs:
            judged = measure == "kept" and a != "ewc"  # whose strength nobody has tuned
            title = f"{what}, {a} − {b}"
            asked.append(lab.Question(f"held: {a}", f"held: {b}", measure, title, primary=judged))
    return asked


DOCUMENT = lab.Document(
    Path(__file__).parent / "reports" / "reasoning.md",
    values,
    {"": draw_sizes, "_overlaps": draw_overlaps, "_differences": lab.draw_comparisons},
)
STUDY = lab.Study(
    "reasoning_circuits",
    Config,
    run_reasoning,
    load=load,
    settle=settle,
    tables=tables,
    opening=lambda c: f"{len(c.suite_names)} suites, {c.num_seeds} seeds; results go to {c.out}",
    document=DOCUMENT,
)

if __name__ == "__main__":
    STUDY.command(__doc__)
