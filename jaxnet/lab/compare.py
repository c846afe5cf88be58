"""Arms compared seed by seed: differences, tests, Holm's correction, and what they allow to say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxnet.lab.shown import number, pairs_won, span, with_interval
from jaxnet.statistics import holm, paired_difference, paired_rates

LEVEL = 0.05
"""A difference is called one where p, corrected for the number of questions, is below this and the 95 %
interval excludes zero."""

LEAST_PAIRS = 12
"""Fewer pairs give intervals and no verdict: an exact test of 8 cannot go below p = 0.0078."""

Verdict = Literal["better", "worse", "no difference shown", "no verdict", "not judged"]


@dataclasses.dataclass(frozen=True)
class Question:
    """Is the first arm better than the second, in some measure?

    Attributes:
      first: name of an arm.
      second: of another.
      measure: of every seed: a number, or a truth value (how often it holds is compared).
        Parts of a name in several levels are separated by dots.
      title: what is asked, for readers; made from the arms if empty.
      primary: whether it is one of those that the document decides. The others are given
        with intervals and not judged.
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


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The answer to a question, first minus second over pairs of equal seeds.

    Attributes:
      question: what was asked.
      difference: mean; None where there is no pair.
      ci95: its 95 % interval.
      p: two-sided, uncorrected; of the paired differences, of truth values McNemar's.
      p_holm: corrected for all primary questions; None of the others.
      wins: pairs in which the first has more.
      losses: pairs in which the second has; the others are ties.
      n: pairs.
      not_finite: pairs left out, since one of the two networks diverged.
    """

    question: Question
    difference: float | None
    ci95: tuple[float, float] | None
    p: float | None
    wins: int
    n: int
    not_finite: int = 0
    p_holm: float | None = None
    test: str | None = None
    losses: int = 0

    @property
    def verdict(self) -> Verdict:
        """What all this allows to say."""
        if not self.question.primary:
            return "not judged"
        if self.n < LEAST_PAIRS or self.difference is None:
            return "no verdict"
        if self.p_holm is None or not self.p_holm < LEVEL or self.ci95 is None:
            return "no difference shown"
        if self.ci95[0] <= 0 <= self.ci95[1]:  # test and interval must agree
            return "no difference shown"
        return "better" if (self.difference > 0) == self.question.higher_is_better else "worse"

    @property
    def sign(self) -> int:
        """1 where the first is shown to be better, -1 where it is shown to be worse, else 0."""
        return {"better": 1, "worse": -1}.get(self.verdict, 0)

    def said(self, scale: float = 100, unit: str = "points") -> str:
        """The verdict in words, with the size of the difference."""
        if self.verdict == "no verdict":
            return (
                f"no verdict ({self.n} pairs, {LEAST_PAIRS} needed)" if self.n else "no pair left to compare"
            )
        if not self.sign:
            return self.verdict
        assert self.difference is not None
        word = "better" if self.sign > 0 else "**worse**"
        return f"{word} by {abs(scale * self.difference):.2f}{' ' * bool(unit)}{unit}"

    def interval(self, scale: float = 100, between: str = " .. ") -> str:
        """The 95 % interval."""
        return span(self.ci95, "+.2f", scale=scale, between=between)

    def shown(self, scale: float = 100) -> str:
        """The mean difference with its interval."""
        mean = number(None if self.difference is None else scale * self.difference, "+.2f")
        return with_interval(mean, self.interval(scale))

    @property
    def won(self) -> str:
        """In how many of the pairs the first is better, and how many pairs are left out."""
        return pairs_won(self.wins, self.n, self.not_finite)

    def as_dict(self) -> dict[str, Any]:
        """For ``summary.json``."""
        asked = {
            "first": self.question.first,
            "second": self.question.second,
            "measure": self.question.measure,
        }
        rest = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "question"}
        more = {"title": self.question.shown, "primary": self.question.primary, "where": self.question.where}
        return {**asked, **rest, "verdict": self.verdict, **more}


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

    Args:
      arms: by name, each with an entry per seed under ``seeds``; see :func:`values_of`.
      questions: what is asked.
      rates: measures that are truth values: how often they hold is compared.
    """
    found = []
    for asked in questions:
        a, b = (values_of(arms[name]["seeds"], asked.measure) for name in (asked.first, asked.second))
        if asked.measure in rates:
            pairs = paired_rates(a, b)
            wins, losses, test = pairs["only_a"], pairs["only_b"], "McNemar, exact"
            mean, ends = pairs["difference"], pairs["ci95"]
            p, n, lost = pairs["p"], pairs["n"], pairs["not_finite"]
        else:
            difference = paired_difference(a, b)
            wins, losses, test = difference["wins"], difference["losses"], difference["test"]  # type: ignore[assignment]
            mean, ends = difference["mean"], difference["ci95"]
            p, n, lost = difference["p"], difference["n"], difference["not_finite"]
        interval = None if ends is None else (ends[0], ends[1])
        found.append(Comparison(asked, mean, interval, p, wins, n, lost, test=test, losses=losses))
    return corrected(found)


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with Holm's correction; its family is all primary ones."""
    family = [i for i, c in enumerate(comparisons) if c.question.primary and c.p is not None]
    adjusted = holm([float(comparisons[i].p or 0.0) for i in family])
    by_place = dict(zip(family, adjusted, strict=True))
    return [dataclasses.replace(c, p_holm=by_place.get(i)) for i, c in enumerate(comparisons)]


def correction(comparisons: Sequence[Comparison]) -> str:
    """How many questions there are, what was corrected for, and how many differences withstand it."""
    primary = [c for c in comparisons if c.question.primary]
    shown = sum(bool(c.sign) for c in primary)
    raw = sum(c.p is not None and c.p < LEVEL for c in primary)
    asked = f"all {len(primary)} questions" if len(primary) > 1 else "the one question"
    return (
        f"p is that of the paired test, p (Holm) is corrected for {asked} of this page. "
        f"The verdict wants the latter below {LEVEL} and an interval without zero: {shown} of {len(primary)} "
        f"differences withstand that ({raw} have an uncorrected p below {LEVEL})."
    )
