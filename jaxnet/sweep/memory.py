"""Memory: what a compiled program takes, and what there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from jaxnet.provenance import available_memory


def program_bytes(compiled: Any) -> int:
    """Device memory of a compiled program per device: arguments, results and temporaries."""
    analysis = compiled.memory_analysis()
    return int(analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes)


def default_budget(devices: Sequence[jax.Device]) -> int:
    """Half of the devices' memory together; on CPUs half of :func:`available_memory`."""
    if devices[0].platform == "cpu":
        return available_memory() // 2
    stats = [device.memory_stats() or {} for device in devices]
    return sum(int(s.get("bytes_limit", 2**32)) for s in stats) // 2
