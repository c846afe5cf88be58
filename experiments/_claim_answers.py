"""Answers of tests, as the numbers beside the result pages give them: how a verdict on a claim is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxnet import statistics
from jaxnet.errors import InputError
from jaxnet.lab.shown import percent, span, with_interval

Verdict = Literal["holds", "fails", "unclear", "not tested yet"]

MARGIN = 0.005
"""A gain below half a point of accuracy is none that the original would have claimed."""


class NotMeasured(Exception):
    """The numbers of a page were made before a measure was."""


@dataclass(frozen=True)
class Answer:
    """What one test says: what was compared, over how many, the effect as it is shown."""

    test: str
    n: str
    effect: str
    verdict: Verdict


@dataclass(frozen=True)
class Numbers:
    """The numbers beside a result page."""

    path: Any
    found: Mapping[str, Any]

    def wrong(self, what: str) -> InputError:
        """The one line for a file that does not hold what it should."""
        return InputError(
            f"{self.path}: a results file of another version, {what}: make the page again, or delete the file"
        )

    def arm(self, name: str) -> Mapping[str, Any]:
        """An arm by name; InputError where there is none."""
        if name not in self.found["arms"]:
            raise self.wrong(f"it has no arm {name!r}")
        arm: Mapping[str, Any] = self.found["arms"][name]
        return arm

    def mean(self, name: str, measure: str) -> Mapping[str, Any]:
        """The aggregate of a measure; NotMeasured where the arm has none."""
        aggregate = self.arm(name)["aggregate"]
        if measure not in aggregate:
            raise NotMeasured(measure)
        found: Mapping[str, Any] = aggregate[measure]
        return found

    def shown(self, name: str, measure: str = "accuracy") -> str:
        """Mean, interval and number of networks, in per cent."""
        found = self.mean(name, measure)
        ends = [span(found["ci95"], between=" .. ")] if found["ci95"] else []
        return with_interval(f"{percent(found['mean'])} %", ", ".join([*ends, f"n = {found['n']}"]))

    def pairs(self, select: Callable[[Mapping[str, Any]], bool], what: str) -> list[Mapping[str, Any]]:
        """The comparisons that a test is made of; InputError without any."""
        found = [c for c in self.found["comparisons"] if select(c)]
        if not found:
            raise self.wrong(f"it has no comparison of {what}")
        return found

    def pair(self, first: str, second: str, measure: str = "accuracy") -> Mapping[str, Any]:
        """One comparison, by its arms."""
        wanted = first, second, measure
        key = lambda c: (c["first"], c["second"], c["measure"])  # noqa: E731
        return self.pairs(lambda c: key(c) == wanted, f"{first} and {second}")[0]


def difference(c: Mapping[str, Any]) -> str:
    """A paired difference in points with its interval."""
    return with_interval(percent(c["difference"], "+.2f"), span(c["ci95"], "+.2f", between=" .. "))


def of_pair(c: Mapping[str, Any]) -> Answer:
    """Whether the first is better: shown (corrected), shown to be no better by half a point, or neither."""
    ends, verdict = c["ci95"], c["verdict"]
    said: Verdict = "unclear"
    if verdict == "better":
        said = "holds"
    elif verdict == "worse" or (verdict == "no difference shown" and ends and ends[1] < MARGIN):
        said = "fails"
    return Answer(c["title"], str(c["n"]), f"{difference(c)} points", said)


def of_many(pairs: Sequence[Mapping[str, Any]], what: str) -> list[Answer]:
    """An answer per pair, or one that counts them where they are many."""
    answers = [of_pair(c) for c in pairs]
    if len(answers) <= 3:
        return answers
    found = sorted(c["difference"] for c in pairs if c["difference"] is not None)
    times = Counter(a.verdict for a in answers)
    counted = f"better in {times['holds']}, not better in {times['fails']}, open in {times['unclear']}"
    ends = [percent(d, "+.2f") for d in (found[0], found[-1])] if found else ["-", "-"]
    numbers = sorted({c["n"] for c in pairs})
    return [
        Answer(
            f"{what}, {len(pairs)} cells",
            "/".join(map(str, numbers)),
            f"{counted}; {ends[0]} to {ends[1]} points",
            together(answers),
        )
    ]


def of_level(test: str, found: Mapping[str, Any], bar: float) -> Answer:
    """Whether a mean lies above a bar: its interval does, lies below, or holds it."""
    ends = found["ci95"] or [-np.inf, np.inf]
    said: Verdict = "holds" if ends[0] >= bar else "fails" if ends[1] < bar else "unclear"
    shown = with_interval(f"{percent(found['mean'])} %", span(found["ci95"], between=" .. "))
    return Answer(test, str(found["n"]), shown, said)


def of_share(test: str, held: Iterable[bool]) -> Answer:
    """Whether most networks do something: the interval of the share lies above one half, or below."""
    found = statistics.success_rate(list(held))
    ends = found["ci95"] or [0.0, 1.0]
    said: Verdict = "holds" if ends[0] > 0.5 else "fails" if ends[1] < 0.5 else "unclear"
    shown = f"{found['successes']} of {found['n']} ({span(ends, '.0f', between=' .. ')} %)"
    return Answer(test, str(found["n"]), shown, said)


def together(answers: Sequence[Answer]) -> Verdict:
    """Holds where every test does, fails where one test fails, else unclear."""
    verdicts = {a.verdict for a in answers}
    return "holds" if verdicts == {"holds"} else "fails" if "fails" in verdicts else "unclear"
