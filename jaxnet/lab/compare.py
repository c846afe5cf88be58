"""Arms compared seed by seed: differences, tests, Holm's correction, and what they allow to say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxnet.lab.shown import percent, span, with_interval
from jaxnet.statistics import holm, paired_difference, paired_rates

LEVEL = 0.05  # a difference is one where the corrected p is below this and the 95 % interval excludes zero
LEAST_PAIRS = 12  # fewer give intervals and no verdict: an exact test of 8 cannot go below p = 0.0078


@dataclasses.dataclass(frozen=True)
class Question:
    """Is the first arm better than the second, in some measure?

    Attributes:
      first: name of an arm.
      second: of another.
      measure: of every seed, a number, or a truth value (how often it holds is compared); dots
        separate the levels of its name.
      title: what is asked, for readers; made from the arms if empty.
      primary: whether the document decides it; others are given with intervals and not judged.
      where: the context that both arms belong to (a scale, a data set), for readers.
      higher_is_better: otherwise the verdict calls less better.
    """

    first: str
    second: str
    measure: str
    title: str = ""
    primary: bool = True
    where: str = ""
    higher_is_better: bool = True

    @property
    def shown(self) -> str:
        """The title."""
        return self.title or f"{self.first} − {self.second}"

    @property
    def in_full(self) -> str:
        """The title with its context, where it does not name it."""
        return self.shown if self.where in self.shown else f"{self.where}: {self.shown}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The answer to a question, first minus second over pairs of equal seeds.

    Attributes:
      question: what was asked.
      difference: mean, with its 95 % interval ``ci95``; None where there is no pair.
      p: of ``test``, two-sided, uncorrected.
      wins: pairs in which the first has more; ``losses``, in which the second has.
      n: pairs, without the ``not_finite`` ones in which one of the two networks diverged.
      p_holm: corrected for all primary questions; None of the others.
    """

    question: Question
    difference: float | None
    ci95: Sequence[float] | None
    p: float | None
    wins: int
    n: int
    not_finite: int = 0
    p_holm: float | None = None
    test: str | None = None
    losses: int = 0

    @property
    def verdict(self) -> Literal["better", "worse", "no difference shown", "no verdict", "not judged"]:
        """What all this allows to say."""
        if not self.question.primary:
            return "not judged"
        if self.n < LEAST_PAIRS or self.difference is None:
            return "no verdict"
        if self.p_holm is None or not self.p_holm < LEVEL:
            return "no difference shown"
        if self.ci95 is None or self.ci95[0] <= 0 <= self.ci95[1]:  # test and interval must agree
            return "no difference shown"
        return "better" if (self.difference > 0) == self.question.higher_is_better else "worse"

    @property
    def sign(self) -> int:
        """1 where the first is shown to be better, -1 where it is shown to be worse, else 0."""
        return {"better": 1, "worse": -1}.get(self.verdict, 0)

    def said(self) -> str:
        """The verdict in words, with the size of the difference."""
        if self.verdict == "no verdict":
            needed = f"no verdict ({self.n} pairs, {LEAST_PAIRS} needed)"
            return needed if self.n else "no pair left to compare"
        if not self.sign or self.difference is None:
            return self.verdict
        word = "better" if self.sign > 0 else "**worse**"
        return f"{word} by {abs(100 * self.difference):.2f} points"

    def mean(self) -> str:
        """The mean difference in points."""
        return percent(self.difference, "+.2f")

    def interval(self) -> str:
        """The 95 % interval in points."""
        return span(self.ci95, "+.2f", between=" .. ")

    def shown(self) -> str:
        """The mean difference with its interval."""
        return with_interval(self.mean(), self.interval())

    @property
    def won(self) -> str:
        """In how many of the pairs the first is better, and how many pairs are left out."""
        return f"{self.wins}/{self.n}" + (f" ({self.not_finite} left out)" if self.not_finite else "")

    def as_dict(self) -> dict[str, Any]:
        """For ``summary.json``."""
        asked = self.question
        names = {name: getattr(asked, name) for name in ("first", "second", "measure")}
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)[1:]}
        more = {"title": asked.shown, "primary": asked.primary, "where": asked.where}
        return {**names, **found, "verdict": self.verdict, **more}


def values_of(seeds: Sequence[Mapping[str, Any]], measure: str) -> np.ndarray:
    """One measure of every seed, ``(seed,)`` float64; NaN of a diverged one, and where it does not exist."""
    found = []
    for entry in seeds:
        value: Any = entry
        for part in measure.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        found.append(np.nan if entry.get("diverged") or value is None else float(value))
    return np.array(found, float)


def compare(
    arms: Mapping[str, Mapping[str, Any]], questions: Sequence[Question], *, rates: Sequence[str] = ()
) -> list[Comparison]:
    """Answers questions about arms whose ``seeds`` are the same, in the same order.

    ``rates`` are measures that are truth values: how often they hold is compared.
    """
    found = []
    for asked in questions:
        a, b = (values_of(arms[name]["seeds"], asked.measure) for name in (asked.first, asked.second))
        pairs: Mapping[str, Any] = (paired_rates if asked.measure in rates else paired_difference)(a, b)
        taken = {name: pairs[name] for name in ("ci95", "p", "wins", "n", "not_finite", "test", "losses")}
        found.append(Comparison(asked, pairs["mean"], **taken))
    return corrected(found)


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with Holm's correction; its family is all primary ones."""
    family = {i: c.p for i, c in enumerate(comparisons) if c.question.primary and c.p is not None}
    by_place = dict(zip(family, holm(list(family.values())), strict=True))
    return [dataclasses.replace(c, p_holm=by_place.get(i)) for i, c in enumerate(comparisons)]


def correction(comparisons: Sequence[Comparison]) -> str:
    """How many questions there are, what was corrected for, and how many differences withstand it."""
    primary = [c for c in comparisons if c.question.primary]
    if not primary:
        return "p is that of the paired test; nothing is judged on this page."
    shown, raw = sum(bool(c.sign) for c in primary), sum(c.p is not None and c.p < LEVEL for c in primary)
    asked = f"all {len(primary)} questions" if len(primary) > 1 else "the one question"
    return (
        f"p is that of the paired test, p (Holm) is corrected for {asked} of this page. "
        f"The verdict wants the latter below {LEVEL} and an interval without zero: {shown} of {len(primary)} "
        f"differences withstand that ({raw} have an uncorrected p below {LEVEL})."
    )
