"""Limits of containers, read from files as Linux writes them: no container is needed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnet.cgroups import memory_left, processor_quota
from jaxnet.provenance import available_memory, peak_memory, processors

GIB = 2**30
UNLIMITED = 9223372036854771712  # what version 1 says


def machine(root: Path, files: dict[str, object]) -> Path:
    """A root folder with these files, and 16 GiB free unless they say otherwise."""
    for name, content in {"proc/meminfo": f"MemAvailable: {16 * 2**20} kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


MEMORY = {
    "no limits at all": ({}, 16 * GIB),
    "a container of version 2": (
        {
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/memory.max": 4 * GIB,
            "sys/fs/cgroup/memory.current": GIB,
        },
        3 * GIB,
    ),
    "files in memory make room": (
        {
            "sys/fs/cgroup/memory.max": 4 * GIB,
            "sys/fs/cgroup/memory.current": 3 * GIB,
            "sys/fs/cgroup/memory.stat": f"anon {GIB}\ninactive_file {GIB}\nactive_file {GIB // 2}\nshmem 9",
        },
        2.5 * GIB,
    ),
    "throttled below its limit": (
        {"sys/fs/cgroup/memory.max": 8 * GIB, "sys/fs/cgroup/memory.high": 2 * GIB},
        2 * GIB,
    ),
    "no limit is a word": (
        {"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/memory.current": 5 * GIB},
        16 * GIB,
    ),
    "more than the machine has": ({"sys/fs/cgroup/memory.max": 64 * GIB}, 16 * GIB),
    "used up": (
        {"sys/fs/cgroup/memory.max": GIB, "sys/fs/cgroup/memory.current": 2 * GIB},
        0,
    ),
    "the group around it has less left": (
        {
            "proc/self/cgroup": "0::/jobs/job 7/step",
            "sys/fs/cgroup/jobs/job 7/step/memory.max": 8 * GIB,
            "sys/fs/cgroup/jobs/job 7/step/memory.current": GIB,
            "sys/fs/cgroup/jobs/job 7/memory.max": "max",
            "sys/fs/cgroup/jobs/memory.max": 9 * GIB,
            "sys/fs/cgroup/jobs/memory.current": 7 * GIB,
            "sys/fs/cgroup/jobs/other/memory.max": GIB,  # of somebody else
        },
        2 * GIB,
    ),
    "a container of version 1, told its name from outside": (
        {
            "proc/self/cgroup": "9:name=systemd:/\n4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": 2 * GIB,
            "sys/fs/cgroup/memory/memory.usage_in_bytes": GIB,
            "sys/fs/cgroup/memory/memory.stat": f"inactive_file 0\ntotal_inactive_file {GIB // 4}",
        },
        1.25 * GIB,
    ),
    "a group within that container": (
        {
            "proc/self/cgroup": "4:memory:/docker/abc/inner",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED,
            "sys/fs/cgroup/memory/inner/memory.limit_in_bytes": GIB,
        },
        GIB,
    ),
    "out of sight": (
        {"proc/self/cgroup": "0::/../there", "sys/fs/cgroup/there/memory.max": GIB},
        16 * GIB,
    ),
    "version 1 for memory beside version 2": (
        {
            "proc/self/cgroup": "4:memory:/own\n0::/",
            "sys/fs/cgroup/unified/cgroup.procs": 1,
            "sys/fs/cgroup/memory/own/memory.limit_in_bytes": 3 * GIB,
        },
        3 * GIB,
    ),
}


@pytest.mark.parametrize(("files", "left"), MEMORY.values(), ids=MEMORY.keys())
def test_available_memory_is_the_smaller(tmp_path: Path, files: dict[str, object], left: float) -> None:
    assert available_memory(machine(tmp_path, files)) == left


def test_without_linux_no_limit_is_known(tmp_path: Path) -> None:
    assert memory_left(tmp_path) is processor_quota(tmp_path) is None
    assert available_memory(tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert processors(tmp_path) == len(os.sched_getaffinity(0))


QUOTAS = {
    "version 2": ({"sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
    "version 2, none": ({"sys/fs/cgroup/cpu.max": "max 100000"}, None),
    "version 2, the group around it": (
        {
            "proc/self/cgroup": "0::/pod/container",
            "sys/fs/cgroup/pod/container/cpu.max": "400000 100000",
            "sys/fs/cgroup/pod/cpu.max": "50000 100000",
        },
        0.5,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "3:cpu,cpuacct:/docker/abc",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": 300000,
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": 100000,
        },
        3.0,
    ),
    "version 1, none": (
        {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": -1, "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000},
        None,
    ),
    "half of it missing": ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": 100000}, None),
}


@pytest.mark.parametrize(("files", "quota"), QUOTAS.values(), ids=QUOTAS.keys())
def test_quota_of_processors(tmp_path: Path, files: dict[str, object], quota: float | None) -> None:
    assert processor_quota(machine(tmp_path, files)) == quota


@given(quota=st.integers(1, 10**6), period=st.integers(1000, 10**6), there=st.integers(1, 64))
def test_processors_are_whole_and_no_more_than_there_are(
    tmp_path_factory: pytest.TempPathFactory, quota: int, period: int, there: int
) -> None:
    root = machine(tmp_path_factory.mktemp("root"), {"sys/fs/cgroup/cpu.max": f"{quota} {period}"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda pid: set(range(there)), raising=False)
        count = processors(root)
    assert 1 <= count <= there
    # enough for the quota, and not one more
    assert count == there or (count - 1) * period < quota <= count * period


def test_the_peak_of_a_process_is_its_own(tmp_path: Path) -> None:
    here = machine(tmp_path, {"proc/self/status": "VmPeak: 9 kB\nVmHWM: 2048 kB\nVmRSS: 4 kB"})
    assert peak_memory(here) == 2 * 2**20
    # where no such file is: what the system says of resources, no less than an array that was just filled
    held = bytearray(b"1") * 2**24
    assert (peak_memory(tmp_path / "nothing") or len(held)) >= len(held)
