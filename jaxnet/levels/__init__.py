"""Ideas of levels in a decoder, each in its honest form: an arm is a file, registered once."""

from __future__ import annotations

import functools

from jaxnet.levels import curriculum, defect, gluing, rates, stability
from jaxnet.levels.arm import PROGRESS, SEEN, STRENGTH, Arm, Phases, ramp
from jaxnet.levels.cell import CellBlock, CellDecoder, hard_gate, latch
from jaxnet.levels.combine import together
from jaxnet.levels.cost import NEAR, kept_bytes, matched, matmul_flops, num_params
from jaxnet.levels.coupling import CoupledBlock, CoupledDecoder, inverted
from jaxnet.levels.invariant import InvariantBlock, InvariantDecoder
from jaxnet.levels.memory import AssociativeMemory, MemoryBlock, MemoryDecoder, empty_memory, recall, write
from jaxnet.levels.room import hidden_units
from jaxnet.levels.router import RoutedBlock, RoutedDecoder, balance, expert_load, extreme_loads, routers
from jaxnet.levels.windows import LevelDecoder, level_blocks, level_windows, orthonormal

ARMS: dict[str, Arm] = {
    "plain": Arm("the decoder as it is"),
    "revnet": Arm(
        "two copies of the stream, coupled: attention from one to the other, a perceptron back",
        functools.partial(CoupledDecoder, copies=True, stored=True),
    ),
    "windows": Arm("local, top-k, global levels; between them a part is kept, orthonormally", LevelDecoder),
    "coupling": Arm("two halves of the stream, coupled; inverted instead of stored", CoupledDecoder),
    "invariant": Arm("attention that keeps a chosen subspace", InvariantDecoder),
    "gluing": gluing.ARM,
    "defect": defect.ARM,
    "pages": stability.ARM,
    "level rates": rates.ARM,
    "curriculum": curriculum.ARM,
    "cell": Arm("a recurrent cell, its state kept or overwritten, in every other block", CellDecoder),
    "router": Arm(
        "top-k experts with balanced load", RoutedDecoder, watch=routers, activity=balance, told=extreme_loads
    ),
    "memory": Arm("a memory whose writes leave what is stored, in every other block", MemoryDecoder),
}
"""The arms by name; every module has the parameters of the plain one, to about a percent."""

SENSIBLE = ("windows", "level rates")
"""Those that go together, beside the gluing of windows; the maps of blocks of unequal widths have no
defect, and the curriculum is another order of windows."""

ARMS["together"] = together(f"{', '.join(SENSIBLE)} and gluing at once", *(ARMS[one] for one in SENSIBLE))

__all__ = [
    "ARMS",
    "NEAR",
    "PROGRESS",
    "SEEN",
    "SENSIBLE",
    "STRENGTH",
    "Arm",
    "AssociativeMemory",
    "CellBlock",
    "CellDecoder",
    "CoupledBlock",
    "CoupledDecoder",
    "InvariantBlock",
    "InvariantDecoder",
    "LevelDecoder",
    "MemoryBlock",
    "MemoryDecoder",
    "Phases",
    "RoutedBlock",
    "RoutedDecoder",
    "balance",
    "empty_memory",
    "expert_load",
    "extreme_loads",
    "hard_gate",
    "hidden_units",
    "inverted",
    "kept_bytes",
    "latch",
    "level_blocks",
    "level_windows",
    "matched",
    "matmul_flops",
    "num_params",
    "orthonormal",
    "ramp",
    "recall",
    "routers",
    "together",
    "windows",
    "write",
]
