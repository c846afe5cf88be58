"""Tables of sweeps: what is measured of every network, as Arrow columns, and who is best in them.

A table names networks by ``seed``, ``architecture``, ``density`` and ``stage``. Nothing here
makes Python objects of rows: a million of them are ranked in columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxnet.statistics import exact_fraction
from jaxnet.sweep.grid import Grid
from jaxnet.sweep.rows import Row

_MEASURES = """
accuracy:double loss:double high:int32 low:int32 high_by_layer:counts low_by_layer:counts extrema_score:double
patchability:double efficiency:double dead:double saturated:double hidden:int32 nonzeros:int32 biases:int32
diverged:bool live_inputs:int32 live_units:int32 live_outputs:int32 live_weights:int32"""

MEASURES = [
    (name, pa.list_(pa.int32()) if kind == "counts" else pa.type_for_alias(kind))
    for name, kind in (column.split(":") for column in _MEASURES.split())
]
"""Columns of :func:`measured` with their types, as for a schema. ``accuracy``: a fraction. ``loss``: mean
training loss of the last epoch, nats. ``high``, ``low``: extrema in all hidden layers, ``..._by_layer`` in
each; ``extrema_score``: both per hidden unit. ``patchability``: score * (1 - accuracy). ``efficiency``:
accuracy per 1,000 weights. ``dead``: fraction of hidden units never active; ``saturated``: mean fraction of
samples that saturate a unit. ``nonzeros``: weights that exist; ``biases`` are counted apart. ``diverged``: a
loss, a weight or a logit was not finite; ``accuracy`` and what follows from it are NaN then. ``live_...``:
how many inputs, hidden units, outputs and weights lie on a way from an input to an output."""

CRITERIA = ("accuracy", "patchability", "efficiency")
"""Columns that networks are ranked by, the larger the better."""

NAME = ("seed", "architecture", "density", "stage")
"""What tells networks apart, and decides between equal ones."""


def network_id(row: Mapping[str, Any]) -> str:
    """What names a network in a table: :data:`NAME` in one text."""
    return f"{row['stage']}/{row['architecture']}/{row['density']!r}/{row['seed']}"


def sizes_of(architecture: str) -> tuple[int, ...]:
    """The sizes behind ``784-128-10``, as tables have them."""
    return tuple(map(int, architecture.split("-")))


def named(grid: Grid, numbers: Sequence[int]) -> dict[str, list[Any]]:
    """The columns that name some networks of a grid."""
    networks = [grid.network(number) for number in numbers]
    architectures = ["-".join(map(str, sizes)) for sizes, _, _ in networks]
    densities, seeds = ([one[k] for one in networks] for k in (1, 2))
    return {"seed": seeds, "architecture": architectures, "density": densities}


def numbers_in(grid: Grid, table: pa.Table) -> tuple[int, ...]:
    """Numbers, ascending, of the networks of some rows in their grid."""
    found = np.zeros(len(table), np.int64)
    for (architecture, density), places in grouped(table, "architecture", "density").items():
        seeds = values(table, "seed")[places] - grid.seeds.start
        found[places] = seeds * len(grid.members) + grid.members.index((sizes_of(architecture), density))
    return tuple(np.sort(found).tolist())


def measured(row: Row, judged: int, parameters: Sequence[int] | None = None) -> dict[str, Any]:
    """The columns of :data:`MEASURES`.

    Args:
      row: of some networks, leaves ``(network, ...)`` on the host.
      parameters: ``(network,)``, weights and biases of a dense network of the same sizes, for scores as the
        texts on the original have them: outputs of linear layers beyond two thresholds per sample, and
        accuracy per 1,000 of these parameters.
      judged: samples behind the accuracy: float32 holds the fraction to 7 digits only, but the
        number of right answers is whole.
    """
    accuracy = np.array([exact_fraction(float(a), judged) for a in row.accuracy])
    hidden, high, low = (np.asarray(part) for part in (row.hidden, row.high, row.low))
    units = np.maximum(hidden, 1)
    score = (high + low) / units if parameters is None else np.asarray(row.outside, float)
    size = np.asarray(row.nonzeros if parameters is None else parameters)
    found = {
        "accuracy": accuracy,
        "extrema_score": score,
        "patchability": score * (1 - accuracy),
        "efficiency": 1000 * accuracy / np.maximum(size, 1),
        "dead": np.round(np.asarray(row.dead, float) * hidden) / units,
        **{name: np.asarray(getattr(row, name), float) for name in ("loss", "saturated")},
        **{name: np.asarray(getattr(row, name)).tolist() for name in ("high_by_layer", "low_by_layer")},
        **{f"live_{name}": np.asarray(number) for name, number in vars(row.live).items()},
    }
    return {name: found[name] if name in found else np.asarray(getattr(row, name)) for name, _ in MEASURES}


def values(table: pa.Table, name: str) -> np.ndarray:
    """A column as NumPy has it."""
    found: np.ndarray = table[name].to_numpy()
    return found


def where(table: pa.Table, **wanted: Any) -> pa.Table:
    """The rows that have these values; None: any."""
    for name, value in wanted.items():
        if value is not None:
            table = table.filter(pc.equal(table[name], value))
    return table


def sound(table: pa.Table) -> pa.Table:
    """The rows of networks that have not diverged."""
    return table.filter(pc.invert(table["diverged"]))


def grouped(table: pa.Table, *names: str) -> dict[tuple[Any, ...], np.ndarray]:
    """Places of the rows that agree in some columns, groups and rows in the order of the table."""
    numbered = table.select(names).append_column("#", pa.array(np.arange(len(table))))
    found = numbered.group_by(names, use_threads=False).aggregate([("#", "list")])
    keys = zip(*(found[name].to_pylist() for name in names), strict=True)
    return {key: np.asarray(rows.values) for key, rows in zip(keys, found["#_list"], strict=True)}


def ranked(table: pa.Table, criterion: str, top_k: int, floor: float) -> pa.Table:
    """The best rows by a criterion, the best first; equal ones by :data:`NAME`; what is not finite never.

    Only networks that reach the accuracy ``floor`` are ranked by patchability and
    efficiency: a network that learnt nothing, with a handful of weights, would lead both.
    """
    counts = pc.is_finite(table[criterion])
    if criterion != "accuracy":
        counts = pc.and_(counts, pc.greater_equal(table["accuracy"], floor))
    table = table.filter(counts)
    keys = [(criterion, "descending"), *((name, "ascending") for name in NAME)]
    return table.take(pc.select_k_unstable(table.select([key for key, _ in keys]), top_k, keys))


def leading(table: pa.Table, top_k: int, floor: float, *scope: str) -> np.ndarray:
    """Places, ascending, of the rows among the best by any criterion, among those that agree in ``scope``."""
    numbered = table.select([*NAME, *CRITERIA]).append_column("#", pa.array(np.arange(len(table))))
    parts = [numbered.take(rows) for rows in grouped(table, *scope).values()]
    found = [values(ranked(part, c, top_k, floor), "#") for part in parts for c in CRITERIA]
    return np.unique(np.concatenate([np.zeros(0, np.int64), *found]))
