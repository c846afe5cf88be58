"""What ``summary.json`` of every study says: arms with their seeds, comparisons, time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxnet.lab.compare import Comparison, values_of
from jaxnet.lab.shown import diverged_in
from jaxnet.statistics import aggregate, success_rate

Entry = dict[str, Any]
"""What is known of one network: ``seed``, ``diverged``, numbers, truth values, whatever else."""

HALVES = "_halves"
"""End of the name of a measure's values on two halves of the samples, ``[first, second]``."""


def numbers(entry: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of an entry, parts of parts named with dots; lists and texts are left out."""
    found: dict[str, float | None] = {}
    for name, value in entry.items():
        if name in ("seed", "diverged") or isinstance(value, bool):
            continue
        if isinstance(value, Mapping):
            found |= {f"{name}.{part}": number for part, number in numbers(value).items()}
        elif value is None or isinstance(value, int | float):
            found[name] = value
    return found


def aggregate_seeds(
    seeds: Sequence[Entry],
    read: Callable[[Entry], Mapping[str, float | None]] = numbers,
    rates: Sequence[str] = (),
) -> dict[str, Any]:
    """Mean, deviation, median, range and interval of every number, and how often what holds or not does.

    Diverged networks are in none of it; ``rates`` names truth values that they may all lack.
    """
    columns: dict[str, list[float]] = {}
    for entry in seeds:
        for name, value in read(entry).items():
            missing = entry["diverged"] or value is None
            columns.setdefault(name, []).append(np.nan if missing else float(value))  # type: ignore[arg-type]
    truths = [n for n in seeds[0] if n != "diverged" and any(isinstance(s[n], bool) for s in seeds)]
    held = {name: success_rate(values_of(seeds, name)) for name in dict.fromkeys((*truths, *rates))}
    return {**{name: aggregate(values) for name, values in columns.items()}, **held}


def halves(seeds: Sequence[Entry]) -> dict[str, Any]:
    """For measures known on two halves of the samples: how these go together over the seeds.

    A correlation near 0 says that a "good" seed was good on these samples by chance.
    """
    found = {}
    for name in seeds[0] if seeds else ():
        if name.endswith(HALVES):
            pairs = np.array([s[name] for s in seeds if not s["diverged"]], float)  # (seed, half)
            spread = len(pairs) > 2 and bool(np.all(np.ptp(pairs, axis=0) > 0))
            r = float(np.corrcoef(pairs.T)[0, 1]) if spread else None
            found[name.removesuffix(HALVES)] = {"correlation": r, "n": len(pairs)}
    return found


def entries(
    seeds: Sequence[int], arms: Sequence[str], *, diverged: Any, **measures: Any
) -> dict[str, list[Entry]]:
    """An entry per seed of every arm, from what was measured of all networks at once.

    Args:
      seeds: their numbers.
      arms: their names.
      diverged: ``(network,)``, the seeds of the first arm, then of the second, and so on.
      measures: by name, ``(network, ...)`` each, or mappings of such; lists are taken as they are, and
        what is None was not measured.
    """
    networks = _listed({"seed": [*seeds] * len(arms), "diverged": diverged, **measures})
    return {arm: networks[i * len(seeds) : (i + 1) * len(seeds)] for i, arm in enumerate(arms)}


def _listed(values: Any) -> list[Any]:
    if not isinstance(values, Mapping):
        return values if isinstance(values, list) else list(np.asarray(values).tolist())
    parts = {name: _listed(part) for name, part in values.items() if part is not None}
    return [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]


def arm_summary(
    seeds: Sequence[Entry],
    read: Callable[[Entry], Mapping[str, float | None]] = numbers,
    rates: Sequence[str] = (),
) -> dict[str, Any]:
    """An arm: its seeds, their aggregate, and whether halves of the samples agree about them."""
    return {"seeds": list(seeds), "aggregate": aggregate_seeds(seeds, read, rates), "halves": halves(seeds)}


def every_arm(groups: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Mapping[str, Any]]:
    """The arms of all runs: by the run's name where it has one arm, others as ``run: arm``."""
    return {
        (run if len(summary["arms"]) == 1 else ": ".join(filter(None, (run, arm)))): found
        for runs in groups.values()
        for run, summary in runs.items()
        for arm, found in summary["arms"].items()
    }


def summarise(
    name: str,
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    arms: Mapping[str, Mapping[str, Any]],
    comparisons: Sequence[Comparison],
    timing: Mapping[str, float],
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that every study's ``summary.json`` holds, and ``extra`` of its own."""
    alone = next(iter(arms.values())) if len(arms) == 1 else None
    diverged: list[Any] = diverged_in(arms)
    if alone is not None:
        diverged = [one["seed"] for one in diverged]
    return {
        "experiment": name,
        "config": config,
        "provenance": provenance,
        "arms": arms,
        # a study of one arm, without having to know its name
        **({} if alone is None else {"seeds": alone["seeds"], "aggregate": alone["aggregate"]}),
        "comparisons": [c.as_dict() for c in comparisons],
        "diverged": diverged,
        **extra,
        "timing": timing,
    }
