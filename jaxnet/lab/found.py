"""What a study gives, and how it is written down; without JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxnet.lab.compare import Comparison, Question
from jaxnet.lab.summary import Entry

Summary = dict[str, Any]
Table = tuple[str, Sequence[str], Sequence[Sequence[object]]]
"""Title, columns, rows."""


@dataclasses.dataclass
class Found:
    """What a study found.

    Attributes:
      arms: by name, an entry per seed; the same seeds in every arm.
      questions: which arms are compared, in which measure.
      extra: what ``summary.json`` holds besides.
      timing: seconds beyond those of the run's clock.
      shared: what a run of another arm may start from; None for nothing.
      comparisons: the answers to the questions, once there are any.
    """

    arms: Mapping[str, Sequence[Entry]]
    questions: Sequence[Question] = ()
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    timing: Mapping[str, float] = dataclasses.field(default_factory=dict)
    shared: Any = None
    comparisons: Sequence[Comparison] = ()


def nothing(*_: Any) -> Any:
    return {}


@dataclasses.dataclass(frozen=True)
class Document:
    """How what came out is written down.

    Attributes:
      template: a Markdown file of :func:`jaxnet.lab.report.render`.
      values: ``(config, groups, comparisons) -> values`` that the template has besides.
      plots: pictures beside the document by the end of their name, each drawn by
        ``draw(path, config, groups, comparisons)``; an empty end is the document's own name.
        None for a forest plot of the comparisons.
    """

    template: Path
    values: Callable[..., Mapping[str, Any]] = nothing
    plots: Mapping[str, Callable[..., None]] = dataclasses.field(default_factory=dict)
