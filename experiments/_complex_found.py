"""What ``experiments.complex_report`` reads, computes and draws."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments._structure_bars import draw_bars
from jaxnet import homology, lab, reach
from jaxnet.errors import InputError
from jaxnet.homology.complexes import Spectrum
from jaxnet.lab.report import table

Bar = tuple[int, float, float]
"""Dimension, birth and death of a class of a cloud of points; an endless one dies at infinity."""


class Read(NamedTuple):
    """Matrices by name, levels of every space, and a cloud of points, where there are any."""

    maps: dict[str, np.ndarray]
    level: list[np.ndarray]
    points: np.ndarray | None


def read(path: Path) -> Read:
    """Reads a file; InputError where it holds anything else."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (ValueError, AttributeError, EOFError, zipfile.BadZipFile):
        raise InputError(f"{path} is no .npz file of arrays of numbers") from None
    level = [a for name, a in arrays.items() if name.startswith("level")]
    clouds = [a for name, a in arrays.items() if name.startswith("points")]
    maps = {name: a for name, a in arrays.items() if not name.startswith(("level", "points"))}
    for name, a in arrays.items():
        what = "a list" if name.startswith("level") else "a matrix"
        if a.ndim != 1 + (what == "a matrix") or a.dtype.kind not in "fiu" or not a.size:
            raise InputError(f"{path}: {name} must be {what} of real numbers: shape {a.shape}, {a.dtype}")
        if not np.isfinite(a).all():
            raise InputError(f"{path}: {name} holds values that are not finite")
    if not maps or len(clouds) > 1:
        raise InputError(
            f"{path} needs one matrix or more, and one cloud of points at most: {', '.join(arrays)}"
        )
    return Read({name: a.astype(float) for name, a in maps.items()}, level, clouds[0] if clouds else None)


def persistence(points: np.ndarray) -> list[Bar]:
    """The barcode of the Vietoris-Rips complex of a cloud, up to holes (dimension 1), by GUDHI."""
    try:
        import gudhi
    except ImportError:
        raise InputError("points need GUDHI: pip install 'jaxnet-sparse[topology]'") from None
    tree = gudhi.RipsComplex(points=points).create_simplex_tree(max_dimension=2)
    return [(dim, *ends) for dim, ends in tree.persistence()]


def spectrum_table(names: Sequence[str], maps: Sequence[Any], found: Spectrum) -> str:
    """A row per map: its rank, and the singular values around the cut."""
    rows = []
    for name, m, rank, s, gap in zip(names, maps, found.rank, found.singular, found.gap, strict=True):
        ends = [f"{s[i]:.3g}" if 0 <= i < len(s) else "-" for i in (0, int(rank) - 1, int(rank))]
        rows.append([name, f"{m.shape[0]} x {m.shape[1]}", int(rank), *ends, f"{gap:.3g}"])
    columns = ["map", "shape", "rank", "largest value", "least that counts", "largest that does not", "gap"]
    return table(columns, rows)


def report(read: Read, tol: float, points: int) -> tuple[str, np.ndarray, list[Bar]]:
    """The report in Markdown, the rank bars, and the barcode of the points."""
    with jax.enable_x64(True):
        names, d = list(read.maps), tuple(jnp.asarray(m) for m in read.maps.values())
        found = homology.ranks(d, tol)
        homology.complexes.check(d, tol)
        said = [
            spectrum_table(names, d, found),
            f"The cut is {float(found.cut):.3g}, {tol:g} of the largest value.",
        ]
        said += about_complex(d, read.level, tol)
    bars = reach.rank_bars(list(read.maps.values()), tol)
    rows = [[i, j, int(bars[i, j])] for i, j in np.argwhere(bars > 0)]
    said += ["## Rank bars", table(["from space", "to space", "vectors"], rows)]
    cloud = [] if read.points is None else persistence(read.points[:points])
    if cloud:
        numbers = [sum(dim == k for dim, *_ in cloud) for k in (0, 1)]
        count = min(points, len(read.points)) if read.points is not None else 0
        said += ["## Points", f"{count} points: {numbers[0]} bars of pieces, {numbers[1]} of holes (GUDHI)."]
    return "\n\n".join(said), bars, cloud


def about_complex(d: tuple[Any, ...], level: Sequence[np.ndarray], tol: float) -> list[str]:
    """Paragraphs on the defect, homology, and, with levels, pages and the long exact sequence."""
    said = ["## The complex"]
    if len(d) > 1 and float(jnp.max(homology.defect(d, relative=True))) > tol:
        worst = ", ".join(f"{value:.3g}" for value in homology.defect(d, relative=True))
        d, far = homology.nearest(d)
        said.append(
            f"This is no complex: relative defects {worst}. The nearest one found is at {float(far):.4g}."
        )
        if level:
            raise InputError(f"levels need a complex: relative defects are {worst}, above {tol:g}")
    numbers, _ = homology.betti(d, tol)
    said.append(f"Betti numbers: {', '.join(str(int(n)) for n in numbers)}.")
    if level:
        found = homology.pages(d, [jnp.asarray(one) for one in level], tol)
        columns = [
            "page",
            "space",
            *(f"level {p}" for p in range(found.dims.shape[2])),
            "rank of differentials",
        ]
        rows = [
            [r, k, *map(int, found.dims[r, k]), " ".join(str(int(n)) for n in found.rank[r, k])]
            for r in range(int(found.collapse) + 1)
            for k in range(found.dims.shape[1])
        ]
        said += ["## Pages", f"They collapse at page {int(found.collapse)}.", table(columns, rows)]
        said += sequence(d, level, tol)
    return said


def sequence(d: tuple[Any, ...], level: Sequence[np.ndarray], tol: float) -> list[str]:
    """Paragraphs on the long exact sequence of what has level 0."""
    sub = [jnp.eye(len(one))[:, np.asarray(one) == 0] for one in level]
    les = homology.les(d, sub, tol)
    delta = [*map(int, les.rank), "-"]
    rows = [
        [k, *(int(h[k]) for h in (les.sub, les.whole, les.quotient, les.into, les.onto)), delta[k]]
        for k in range(len(level))
    ]
    columns = ["space", "h(A)", "h(B)", "h(C)", "rank A to B", "rank B to C", "rank of the connecting map"]
    return ["## Long exact sequence", "A is what has level 0, B all, C the rest.", table(columns, rows)]


def draw(path: Path, bars: np.ndarray, sizes: Sequence[int], cloud: Sequence[Bar]) -> None:
    """Rank bars, thick ones for many vectors; beside them the persistence of the points."""
    plots = lab.plots
    with plots.picture(path, 1, 1 + bool(cloud), size=(6.5 * (1 + bool(cloud)), 4.2), squeeze=False) as axes:
        left = axes[0, 0]
        draw_bars(left, bars, "Rank bars: vectors that live from space to space", sizes)
        if cloud:
            right = axes[0, 1]
            end = 1.05 * max((death for _, _, death in cloud if np.isfinite(death)), default=1.0)
            for y, (dim, birth, death) in enumerate(sorted(cloud)):
                shown = {0: "pieces", 1: "holes"}[dim] if (dim, y) in firsts(cloud) else None
                right.plot([birth, min(death, end)], [y, y], color=plots.COLORS[1 + dim], lw=1.5, label=shown)
            right.set(xlabel="distance", yticks=[])
            plots.finish(right, "Persistence of the points (GUDHI)", grid="x", loc="lower right")


def firsts(cloud: Sequence[Bar]) -> set[tuple[int, int]]:
    """The first bar of every dimension, with its place."""
    dims = [dim for dim, *_ in sorted(cloud)]
    return {(dim, dims.index(dim)) for dim in dims}
