"""Memory: what a compiled program takes, and what there is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxnet.cgroups import memory_left


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


def available_memory(root: Path = Path("/")) -> int:
    """Bytes a process can have without swapping; what only caches files counts as available.

    What the machine has free, or less where a container or a job limits this process.

    Args:
      root: where ``proc`` and ``sys`` are.

    Returns:
      On macOS all of the machine's memory, on Windows 4 GiB: neither tells us what is free.
    """
    left = memory_left(root)
    free = _free_memory(root)
    return free if left is None else min(free, left)


def _free_memory(root: Path) -> int:
    with contextlib.suppress(OSError), (root / "proc" / "meminfo").open() as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf, others not these names
        return 2**32
