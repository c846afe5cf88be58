"""Ideas of levels in a decoder, each in its honest form: an arm is a file, registered once."""

from __future__ import annotations

from jaxnet.levels.arm import Arm, Phases

ARMS: dict[str, Arm] = {"plain": Arm("the decoder as it is")}
"""The arms by name."""

__all__ = ["ARMS", "Arm", "Phases"]
