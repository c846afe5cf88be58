"""What a study found, and what ``summary.json`` says of it: arms with their seeds, comparisons, time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.lab.compare import Comparison, Question, values_of
from jaxnet.lab.shown import diverged_in
from jaxnet.statistics import aggregate, success_rate

Entry = dict[str, Any]  # what is known of one network: seed, diverged, numbers, truth values, whatever else


@dataclasses.dataclass
class Found:
    """What a study found.

    Attributes:
      arms: by name, an entry per seed; the same seeds in every arm.
      questions: what is asked of them; ``comparisons`` are the answers, once there are any.
      extra: what ``summary.json`` holds besides.
      timing: seconds beyond those of the run's clock.
      shared: what a run of another arm may start from.
    """

    arms: Mapping[str, Sequence[Entry]]
    questions: Sequence[Question] = ()
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    timing: Mapping[str, float] = dataclasses.field(default_factory=dict)
    shared: Any = None
    comparisons: Sequence[Comparison] = ()


@dataclasses.dataclass(frozen=True)
class Document:
    """How what came out is written down.

    Attributes:
      template: a Markdown file of :func:`jaxnet.lab.report.render`.
      values: ``(config, groups, comparisons) -> values`` that the template has besides.
      plots: pictures by the end of their name (empty: the document's own), each drawn by
        ``draw(path, config, groups, comparisons)``; a forest plot if there is none.
    """

    template: Path
    values: Callable[..., Mapping[str, Any]] = lambda config, groups, comparisons: {}
    plots: Mapping[str, Callable[..., None]] = dataclasses.field(default_factory=dict)


def draw_comparisons(
    path: Path, config: Any, groups: Any, comparisons: Sequence[Comparison], *, judged: bool = False
) -> None:
    """Among the plots of a document: the forest plot of all differences, or of those that are judged."""
    from jaxnet.lab import plots  # slow to load, and a wrong flag is answered before

    shown = [c for c in comparisons if c.question.primary or not judged]
    if shown:  # without a question there is nothing to draw
        plots.save_comparisons(path, config, groups, shown)


def numbers(entry: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of an entry, parts of parts named with dots; lists and texts are left out."""
    found: dict[str, float | None] = {}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{part}": number for part, number in numbers(value).items()}
        elif name != "seed" and not isinstance(value, bool) and isinstance(value, int | float | None):
            found[name] = value
    return found


def arm_summary(
    seeds: Sequence[Entry],
    read: Callable[[Entry], Mapping[str, float | None]] = numbers,
    rates: Sequence[str] = (),
) -> dict[str, Any]:
    """An arm: its ``seeds``, their ``aggregate``, and whether ``halves`` of the samples agree about them.

    Aggregated are the numbers that ``read`` gives (mean, deviation, median, range, interval) and how
    often what is true or false holds; ``rates`` names truth values that all seeds may lack. Diverged
    networks are in none of it.
    """
    columns: dict[str, list[float | None]] = {}
    for entry in seeds:
        for name, value in read(entry).items():
            columns.setdefault(name, []).append(None if entry["diverged"] else value)
    truths = [n for n in seeds[0] if n != "diverged" and any(isinstance(s[n], bool) for s in seeds)]
    held = {name: success_rate(values_of(seeds, name)) for name in dict.fromkeys((*truths, *rates))}
    found = {name: aggregate(values) for name, values in columns.items()}
    return {"seeds": list(seeds), "aggregate": {**found, **held}, "halves": halves(seeds)}


def halves(seeds: Sequence[Entry]) -> dict[str, Any]:
    """Of measures known on two halves of the samples (``NAME_halves``): their correlation over the seeds.

    Near 0, a "good" seed was good on these samples by chance.
    """
    found = {}
    for name in seeds[0] if seeds else ():
        if name.endswith("_halves"):
            pairs = np.array([s[name] for s in seeds if not s["diverged"]], float)  # (seed, half)
            spread = len(pairs) > 2 and bool(np.all(np.ptp(pairs, axis=0) > 0))
            r = float(np.corrcoef(pairs.T)[0, 1]) if spread else None
            found[name.removesuffix("_halves")] = {"correlation": r, "n": len(pairs)}
    return found


def entries(
    seeds: Sequence[int], arms: Sequence[str], *, diverged: Any, **measures: Any
) -> dict[str, list[Entry]]:
    """An entry per seed of every arm, from what was measured of all networks at once.

    ``diverged`` and the measures are ``(network, ...)``, or mappings of such: the seeds of the first arm,
    then of the second, and so on. Lists are taken as they are, and what is None was not measured.
    """
    networks = _listed({"seed": [*seeds] * len(arms), "diverged": diverged, **measures})
    return {arm: networks[i * len(seeds) : (i + 1) * len(seeds)] for i, arm in enumerate(arms)}


def _listed(values: Any) -> list[Any]:
    if not isinstance(values, Mapping):
        return values if isinstance(values, list) else list(np.asarray(values).tolist())
    parts = {name: _listed(part) for name, part in values.items() if part is not None}
    return [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]


def every_arm(groups: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Mapping[str, Any]]:
    """The arms of all runs: by the run's name where it has one arm, others as ``run: arm``."""
    return {
        (run if len(summary["arms"]) == 1 else ": ".join(filter(None, (run, arm)))): found
        for runs in groups.values()
        for run, summary in runs.items()
        for arm, found in summary["arms"].items()
    }


def summarise(arms: Mapping[str, Mapping[str, Any]], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """What ``summary.json`` says of the arms: themselves, the comparisons, who diverged."""
    alone, diverged = {}, diverged_in(arms)
    if len(arms) == 1:  # a study of one arm, without having to know its name
        (arm,) = arms.values()
        alone, diverged = {key: arm[key] for key in ("seeds", "aggregate")}, [d["seed"] for d in diverged]
    answers = [c.as_dict() for c in comparisons]
    return {"arms": arms, **alone, "comparisons": answers, "diverged": diverged}
