"""Ideas of levels in a decoder, each in its honest form: an arm is a file, registered once."""

from __future__ import annotations

from jaxnet.levels import curriculum, defect, gluing, rates, stability
from jaxnet.levels.arm import PROGRESS, SEEN, STRENGTH, Arm, Phases, ramp
from jaxnet.levels.combine import together
from jaxnet.levels.cost import NEAR, kept_bytes, matched, matmul_flops, num_params

ARMS: dict[str, Arm] = {
    "plain": Arm("the decoder as it is"),
    "gluing": gluing.ARM,
    "defect": defect.ARM,
    "pages": stability.ARM,
    "level rates": rates.ARM,
    "curriculum": curriculum.ARM,
}
"""The arms by name."""

SENSIBLE = ("windows", "defect", "level rates")
"""Those that go together, beside the gluing of windows; the curriculum is another order of windows."""

ARMS["together"] = together(
    f"{', '.join(name for name in SENSIBLE if name in ARMS)} and gluing at once",
    *(ARMS[name] for name in SENSIBLE if name in ARMS),
)

__all__ = [
    "ARMS",
    "NEAR",
    "PROGRESS",
    "SEEN",
    "SENSIBLE",
    "STRENGTH",
    "Arm",
    "Phases",
    "kept_bytes",
    "matched",
    "matmul_flops",
    "num_params",
    "ramp",
    "together",
]
