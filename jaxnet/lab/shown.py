"""How tables, lines and documents show numbers and networks: what does not exist is ``-``.

A network with a loss, a weight or a logit that is not finite has *diverged*: it is counted and
named, and left out of everything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NOTHING = "-"
"""Stands for a number that does not exist."""

_NAMED = 8  # diverged networks are named in a line


def number(value: float | None, form: str = ".2f") -> str:
    """A number in a format; ``-`` where there is none.

    >>> number(0.125), number(None), number(float("nan"))
    ('0.12', '-', '-')
    """
    return NOTHING if value is None or not math.isfinite(value) else format(value, form)


def percent(fraction: float | None, form: str = ".2f") -> str:
    """A fraction in per cent; ``-`` where there is none."""
    return number(None if fraction is None else 100 * fraction, form)


def span(
    ends: Sequence[float | None] | None, form: str = ".2f", *, scale: float = 100, between: str = ".."
) -> str:
    """Both ends of an interval times ``scale``; ``-`` where there is none.

    >>> span([0.25, 0.5], ".0f"), span(None), span([float("nan")] * 2)
    ('25..50', '-', '-')
    """
    shown = [number(None if end is None else scale * end, form) for end in ends or (None,)]
    return NOTHING if NOTHING in shown else between.join(shown)


def sizes_label(sizes: Iterable[int]) -> str:
    """``784-128-10``."""
    return "-".join(map(str, sizes))


def with_interval(mean: str, ends: str) -> str:
    """A mean and its interval, both as they are shown."""
    return NOTHING if NOTHING == mean == ends else f"{mean} ({ends})"


def agreement(arm: Mapping[str, Any], measure: str = "accuracy") -> str:
    """The correlation of an arm's ``halves``; ``-`` where test samples were read again."""
    return number(arm["halves"].get(measure, {}).get("correlation"))


def sound(entries: Iterable[Mapping[str, Any]]) -> list[Any]:
    """The entries (of seeds, rows of a table) whose network has not diverged."""
    return [entry for entry in entries if not entry["diverged"]]


def diverged_in(arms: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """The diverged networks of several arms, each with the entries of its ``seeds``."""
    gone = [(name, entry) for name, arm in arms.items() for entry in arm["seeds"] if entry["diverged"]]
    return [{"arm": name, "seed": entry["seed"]} for name, entry in gone]


def diverged_of(arms: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The :func:`diverged_line` of several arms."""
    return diverged_line(diverged_in(arms), sum(len(arm["seeds"]) for arm in arms.values()))


def diverged_line(diverged: Sequence[Any], networks: int) -> str | None:
    """One line that says how many networks diverged, which, and that they count nowhere; None without any.

    ``diverged`` are seeds, names, or mappings that name one of ``networks`` (arm, seed, ...).

    >>> diverged_line([3, 5], 8)
    'diverged: 2 of 8 networks (seeds 3, 5); they are in no mean, ranking or comparison'
    >>> diverged_line([{"arm": "random", "seed": 1}], 8)
    'diverged: 1 of 8 networks (random, seed 1); they are in no mean, ranking or comparison'
    """
    if not diverged:
        return None
    if all(isinstance(one, int) for one in diverged):
        names = f"seed{'s' if len(diverged) > 1 else ''} {', '.join(map(str, diverged[:_NAMED]))}"
    else:
        names = "; ".join(map(_name, diverged[:_NAMED]))
    if len(diverged) > _NAMED:
        names += f" and {len(diverged) - _NAMED} more, all in summary.json"
    of = f"{len(diverged)} of {networks} network{'' if networks == 1 else 's'}"
    return f"diverged: {of} ({names}); they are in no mean, ranking or comparison"


def arms_and_verdicts(summary: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[object]]]]:
    """The tables of a study without its own: every arm and the answers, numbers as they are stored."""
    asked = summary["comparisons"]
    measures = list(dict.fromkeys(c["measure"] for c in asked))
    means: list[list[object]] = []
    for name, arm in summary["arms"].items():
        found = [arm["aggregate"][m] for m in measures]
        means.append([name, *(number(a.get("mean", a.get("rate")), ".4g") for a in found)])
    answers: list[list[object]] = []
    for c in asked:
        size = number(c["difference"], "+.4g"), span(c["ci95"], "+.4g", scale=1), f"{c['wins']}/{c['n']}"
        answers.append([c["title"], c["measure"], *size, number(c["p_holm"], ".2g"), c["verdict"]])
    heads = ["first minus second", "measure", "difference", "95 %", "wins", "p (Holm)", "verdict"]
    tables = [("means over seeds", ["arm", *measures], means), ("paired seeds", heads, answers)]
    return tables if asked else []


def left_out(diverged: int) -> str:
    """What the title of a plot says of networks that it leaves out."""
    return f" ({diverged} diverged, not shown)" if diverged else ""


def _name(network: Any) -> str:
    if not isinstance(network, Mapping):
        return str(network)
    told = {key: value for key, value in network.items() if value not in (None, "")}
    return ", ".join(f"seed {value}" if key == "seed" else str(value) for key, value in told.items())
