"""Compiled programs: one per name and shape; those not asked for any more are let go."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxnet.programs import Clock, Programs


def test_a_program_is_compiled_once_per_name_and_shape_and_the_oldest_is_let_go() -> None:
    programs = Programs(Clock(), keep=2)
    traced: list[str] = []

    def ask(name: str, size: int) -> list[float]:
        def make() -> Any:
            traced.append(f"{name}{size}")
            return lambda x: 2 * x

        x = np.arange(size, dtype=np.float32)
        return jax.device_get(programs.get(name, make, x)(x)).tolist()

    assert ask("a", 3) == [0, 2, 4] and ask("a", 2) == [0, 2]
    ask("a", 3)  # known, and now the one asked for last
    assert traced == ["a3", "a2"]
    ask("b", 3)  # there is room for two: a2 goes
    ask("a", 3)
    assert traced == ["a3", "a2", "b3"] and programs.compiled == 3
    assert ask("a", 2) == [0, 2], "compiled again"
    assert traced == ["a3", "a2", "b3", "a2"] and programs.compiled == 4
