"""How tables, lines and documents show numbers and networks: what does not exist is ``-``.

A network with a loss, a weight or a logit that is not finite has *diverged*. It is counted and
named (:func:`diverged_line`) and left out of everything else (:func:`sound`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NOTHING = "-"
"""Stands for a number that does not exist."""

NAMED = 8
"""So many diverged networks are named in a line; ``summary.json`` has all."""


def number(value: float | None, form: str = ".2f") -> str:
    """A number in a format; ``-`` where there is none (None, or not finite).

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


def pairs_won(wins: int, n: int, not_finite: int) -> str:
    """In how many of ``n`` pairs the first was better, and how many were left out since one diverged."""
    return f"{wins}/{n}" + (f" ({not_finite} left out)" if not_finite else "")


def sound(entries: Iterable[Mapping[str, Any]]) -> list[Any]:
    """The entries (of seeds, rows of a table) whose network has not diverged."""
    return [entry for entry in entries if not entry["diverged"]]


def diverged_in(arms: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The diverged networks of several arms, each with the entries of its ``seeds``."""
    return [
        {"arm": name, "seed": entry["seed"]}
        for name, arm in arms.items()
        for entry in arm["seeds"]
        if entry["diverged"]
    ]


def document_lines(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a document says of the diverged networks of its arms; nothing without any."""
    line = diverged_line(diverged_in(arms), sum(len(arm["seeds"]) for arm in arms.values()))
    return [] if line is None else [line[0].upper() + line[1:] + ".", ""]


def diverged_line(diverged: Sequence[Any], networks: int) -> str | None:
    """One line that says how many networks diverged, which, and that they count nowhere; None without any.

    Args:
      diverged: seeds, names, or mappings that name a network (arm, seed, ...).
      networks: how many there are, these included.

    >>> diverged_line([3, 5], 8)
    'diverged: 2 of 8 networks (seeds 3, 5); they are in no mean, ranking or comparison'
    >>> diverged_line([{"arm": "random", "seed": 1}], 8)
    'diverged: 1 of 8 networks (random, seed 1); they are in no mean, ranking or comparison'
    """
    if not diverged:
        return None
    named = diverged[:NAMED]
    if all(isinstance(one, int) for one in named):
        names = f"seed{'s' if len(diverged) > 1 else ''} {', '.join(map(str, named))}"
    else:
        names = "; ".join(map(_name, named))
    if len(diverged) > NAMED:
        names += f" and {len(diverged) - NAMED} more, all in summary.json"
    of = f"{len(diverged)} of {networks} network{'' if networks == 1 else 's'}"
    return f"diverged: {of} ({names}); they are in no mean, ranking or comparison"


def arms_and_verdicts(summary: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[object]]]]:
    """The tables of a study that has none of its own: what was asked of every arm, and the answers.

    Numbers are as they are stored.
    """
    asked = summary["comparisons"]
    measures = list(dict.fromkeys(c["measure"] for c in asked))
    of = {name: arm["aggregate"] for name, arm in summary["arms"].items()}
    first: list[list[object]] = [
        [name, *(number(a[m].get("mean", a[m].get("rate")), ".4g") for m in measures)]
        for name, a in of.items()
    ]
    second: list[list[object]] = [
        [
            c["title"],
            c["measure"],
            number(c["difference"], "+.4g"),
            span(c["ci95"], "+.4g", scale=1),
            f"{c['wins']}/{c['n']}",
            number(c["p_holm"], ".2g"),
            c["verdict"],
        ]
        for c in asked
    ]
    heads = ["first minus second", "measure", "difference", "95 %", "wins", "p (Holm)", "verdict"]
    tables = [("means over seeds", ["arm", *measures], first)]
    return [*tables, ("paired seeds", heads, second)] if asked else []


def left_out(diverged: int) -> str:
    """What the title of a plot says of networks that it leaves out."""
    return f" ({diverged} diverged, not shown)" if diverged else ""


def _name(network: Any) -> str:
    if not isinstance(network, Mapping):
        return str(network)
    told = {key: value for key, value in network.items() if value not in (None, "")}
    return ", ".join(f"seed {value}" if key == "seed" else str(value) for key, value in told.items())
