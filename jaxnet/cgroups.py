"""What Linux leaves to a group of processes, a container or a job of a cluster: memory and processors.

A process is in a control group that lies within others, and the limit of each holds. Within a
container the groups around it cannot be seen, and its own may be where the outermost should be.

Source: the Linux kernel's admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst, scheduler/sched-bwc.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def memory_left(root: Path = Path("/")) -> int | None:
    """Bytes that the groups of this process may still take; what only caches files counts as left.

    Args:
      root: where ``proc`` and ``sys`` are.

    Returns:
      The smallest number of all groups, at least 0; None where no limit is known.
    """
    left = []
    for folder in _folders(root, "memory"):
        names = ("memory.max", "memory.high", "memory.limit_in_bytes")
        limits = [limit for name in names if (limit := _first_number(folder / name)) is not None]
        if limits:
            used = _first_number(folder / "memory.current") or _first_number(folder / "memory.usage_in_bytes")
            left.append(max(0, min(limits) - max(0, (used or 0) - _cached(folder))))
    return min(left, default=None)


def processor_quota(root: Path = Path("/")) -> float | None:
    """Processors' worth of time that the groups of this process get, for instance 1.5.

    Args:
      root: where ``proc`` and ``sys`` are.

    Returns:
      The smallest quota of all groups; None where there is none.
    """
    quotas = []
    for folder in _folders(root, "cpu"):
        words = _words(folder / "cpu.max") or [
            word for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us") for word in _words(folder / name)
        ]
        numbers = [int(word) for word in words if word.isdecimal()]  # without "max" and -1: no limit
        if len(numbers) == 2 and numbers[1]:
            quotas.append(numbers[0] / numbers[1])
    return min(quotas, default=None)


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's groups and of those around them, wherever ``controller`` may be limited."""
    base = root / "sys" / "fs" / "cgroup"
    groups = {base: "", base / "unified": "", base / controller: ""}
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:  # no Linux, or nothing to be seen of it
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2, alone or beside version 1
            groups |= {base: path, base / "unified": path}
        elif controller in controllers.split(","):
            groups |= {base / controller: path, base / controllers: path}
    for mount, path in groups.items():
        parts = [part for part in path.split("/") if part]
        if ".." in parts:  # outside of what can be seen here
            parts = []
        # a container sees its own groups only, but may be told their names from outside
        ends = (parts[start:] for start in range(len(parts) + 1))
        own = next((end for end in ends if mount.joinpath(*end).is_dir()), [])
        yield from (mount.joinpath(*own[:depth]) for depth in range(len(own) + 1))


def _cached(folder: Path) -> int:
    """Bytes of files in memory, which make room for whatever needs it; of all groups within."""
    words = _words(folder / "memory.stat")
    stat = dict(zip(words[::2], words[1::2], strict=False))
    whole = "total_" if "total_inactive_file" in stat else ""  # version 1 has both
    return sum(int(stat.get(f"{whole}{name}_file", "0")) for name in ("active", "inactive"))


def _first_number(path: Path) -> int | None:
    words = _words(path)
    return int(words[0]) if words and words[0].isdecimal() else None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
