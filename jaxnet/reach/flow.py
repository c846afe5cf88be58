"""Ways that have no unit in common, by maximum flow on the host."""

from __future__ import annotations

import numpy as np

from jaxnet.nn.params import Structure
from jaxnet.reach.wires import sizes_of, wires


def disjoint_paths(structure: Structure, i: int, j: int) -> int:
    """The largest number of ways from layer ``i`` to layer ``j`` that share no unit, their ends included.

    This is the generic rank of the product of the weight matrices between the two: the rank for almost
    every choice of values on the support (Lindström, Gessel and Viennot: a minor of the product is a sum
    over systems of such ways; Menger: the smallest number of units that cut the layers apart).

    Args:
      structure: of one network; skip connections and patches in use are ways, too.
      i: layer to start from; 0 are the inputs.
      j: layer to end in, beyond ``i``; the number of weight matrices are the outputs.

    Raises:
      ValueError: not ``0 <= i < j <= layers``.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    sizes = sizes_of(structure)
    if not 0 <= i < j < len(sizes):
        raise ValueError(f"layers must be 0 <= i < j <= {len(sizes) - 1}: {i}, {j}")
    # every unit is two nodes, in and out, with one edge of capacity 1 between them
    first = np.cumsum([0, *(2 * n for n in sizes[i : j + 1])])
    source, sink = int(first[-1]), int(first[-1]) + 1
    tails, heads = [], []

    def join(tail: np.ndarray, head: np.ndarray) -> None:
        tails.append(tail)
        heads.append(head)

    for layer in range(i, j + 1):
        nodes = first[layer - i] + 2 * np.arange(sizes[layer])
        join(nodes, nodes + 1)
    exist = np.ones(sizes[-1], bool) if structure.outputs is None else np.asarray(structure.outputs)
    start, end = (np.flatnonzero(exist) if k == len(sizes) - 1 else np.arange(sizes[k]) for k in (i, j))
    join(np.full(len(start), source), first[0] + 2 * start)
    join(first[j - i] + 2 * end + 1, np.full(len(end), sink))
    for t, into in enumerate(wires(structure)):
        for w in into:
            if i <= w.source and t < j:
                there = np.asarray(w.exists)
                rows, cols = np.asarray(w.rows)[there], np.asarray(w.cols)[there]
                join(first[w.source - i] + 2 * cols + 1, first[t + 1 - i] + 2 * rows)
    places = np.unique(np.stack([np.concatenate(tails), np.concatenate(heads)]), axis=1)
    capacity = np.ones(places.shape[1], np.int32)
    graph = csr_array((capacity, (places[0], places[1])), shape=(sink + 1, sink + 1))
    return int(maximum_flow(graph, source, sink).flow_value)
