"""Where a result comes from: code, versions, device, time."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jaxnet.cgroups import memory_left, processor_quota

DISTRIBUTION = "jaxnet-sparse"
"""What the library is called where packages are installed; ``jaxnet`` there is another project."""


def provenance() -> dict[str, Any]:
    """Says which code, versions and device made a result; no host names, no paths.

    Returns:
      ``time_utc`` (ISO 8601, seconds), ``git`` (``commit`` and ``dirty``: whether
      a tracked file differs from it; ``None`` outside of a git checkout),
      ``versions`` and ``device`` (``platform``, ``kind``, ``count``, and the
      number of CPU cores this process may use).
    """
    import jax

    devices = jax.devices()
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "jaxnet")
    return {
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": _git(Path(__file__).resolve()),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "cpu_cores": processors(),
        },
    }


def processors(root: Path = Path("/")) -> int:
    """Processors this program may use: those it may run on, or fewer where its time is limited.

    A container with the time of 1.5 processors has 2. Args: ``root``, see :mod:`jaxnet.cgroups`.
    """
    # macOS and Windows do not tell on which ones
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = processor_quota(root)
    return count if quota is None else min(count, max(1, math.ceil(quota)))


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


def peak_memory(root: Path = Path("/")) -> int | None:
    """Most bytes that this process has held so far; None where nothing tells (Windows).

    Args:
      root: where ``proc`` is. ``ru_maxrss``, asked where it is not, is no such thing on Linux: it begins at
        the size of the parent.
    """
    with contextlib.suppress(OSError), (root / "proc" / "self" / "status").open() as lines:
        for line in lines:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def version(package: str) -> str | None:
    """The version of a package that is installed, this one included."""
    try:
        return importlib.metadata.version(DISTRIBUTION if package == "jaxnet" else package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(file: Path) -> dict[str, Any] | None:
    """Commit of the checkout that ``file`` is tracked in; an installed copy is in none."""
    # The variables git sets for its hooks would point it to another repository.
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(file.parent), *args], capture_output=True, text=True, env=env, timeout=20
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "--", file.name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    status = git("status", "--porcelain", "--untracked-files=no")
    if commit is None or status is None:
        return None
    return {"commit": commit, "dirty": bool(status)}
