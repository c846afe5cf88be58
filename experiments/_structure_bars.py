"""A picture of rank bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def draw_bars(axes: Any, bars: Any, title: str, sizes: Sequence[int]) -> None:
    """A line for every pair of spaces, as thick as there are many bars between them, the longest on top.

    Args:
      axes: of matplotlib.
      bars: ``(K + 1, K + 1)``, from a space to a space; means may be fractions.
      title: of the picture.
      sizes: dimensions of the spaces.
    """
    from jaxnet.lab import plots

    bars = np.asarray(bars, float)
    lines = sorted(np.argwhere(bars > 0.05).tolist(), key=lambda line: (line[0] - line[1], line[0]))
    for place, (i, j) in enumerate(lines):
        width = 1.5 + 1.2 * np.log1p(bars[i, j])
        axes.plot([i, j], [place, place], "-o", lw=width, ms=4, color="C0", solid_capstyle="round")
        where = {"xytext": (7, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
        axes.annotate(f"{bars[i, j]:.3g}", (j, place), **where)
    axes.set_xticks(range(len(bars)), [f"{k}\n({n})" for k, n in enumerate(sizes)])
    axes.set(xlabel="space (dimensions)", yticks=[], xlim=(-0.3, len(bars) - 0.5))
    axes.margins(y=0.1)
    axes.invert_yaxis()
    plots.finish(axes, title, grid="x")
