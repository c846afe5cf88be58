"""Sweeps: many seeds trained by one compiled program, chunk by chunk.

:func:`make_run` gives a function for one network: draw, train, measure.
:class:`Program` vmaps it over seeds, plans chunks from the compiled program's own
memory analysis, and spreads the seeds over all local devices. Nothing on the
device grows with the number of seeds. :func:`make_rung` trains some of the
epochs, so that only the best networks need go on (successive halving).

One program serves every architecture of a **family**: networks of equal depth
are padded to common widths. A unit that does not exist has no weights in or out
and costs next to nothing where only existing weights are computed.
"""

from __future__ import annotations

from jaxnet.sweep.adopting import check_trained_on
from jaxnet.sweep.bench import Bench
from jaxnet.sweep.family import (
    DrawRules,
    Family,
    Variant,
    draw_network,
    draw_variant,
    make_family,
    make_variant,
)
from jaxnet.sweep.grid import Grid
from jaxnet.sweep.live import LivePart, LiveShapes, live_shapes, put_back, take_live, take_values
from jaxnet.sweep.memory import default_budget, program_bytes
from jaxnet.sweep.persistent import with_kernel
from jaxnet.sweep.program import Plan, Program, default_chunk, run_chunks
from jaxnet.sweep.reaching import Reaching, reaching
from jaxnet.sweep.reference import masked_dense_accuracy
from jaxnet.sweep.rows import Carried, Row, SweepConfig, Trained
from jaxnet.sweep.run import make_phases, make_run, make_rung
from jaxnet.sweep.winner import (
    Winner,
    load_winner,
    read_winner,
    save_winner,
    sort_units,
    to_scipy,
    trim,
    winner_accuracy,
    winner_meta,
)

__all__ = [
    "Bench",
    "Carried",
    "DrawRules",
    "Family",
    "Grid",
    "LivePart",
    "LiveShapes",
    "Plan",
    "Program",
    "Reaching",
    "Row",
    "SweepConfig",
    "Trained",
    "Variant",
    "Winner",
    "check_trained_on",
    "default_budget",
    "default_chunk",
    "draw_network",
    "draw_variant",
    "live_shapes",
    "load_winner",
    "make_family",
    "make_phases",
    "make_run",
    "make_rung",
    "make_variant",
    "masked_dense_accuracy",
    "program_bytes",
    "put_back",
    "reaching",
    "read_winner",
    "run_chunks",
    "save_winner",
    "sort_units",
    "take_live",
    "take_values",
    "to_scipy",
    "trim",
    "winner_accuracy",
    "winner_meta",
    "with_kernel",
]
