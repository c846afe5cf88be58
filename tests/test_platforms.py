"""Systems other than Linux: what they do not have is hidden, and jaxnet works or says so in one line."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., subprocess.CompletedProcess[str]]

WITHOUT = """
import errno, os, shutil, struct, subprocess, sys, types
import fcntl as real
import orbax.checkpoint  # it and what it imports have ways of their own for other systems
for name in ("fcntl", "resource", "msvcrt"):
    sys.modules[name] = None
for name in ("statvfs", "sched_getaffinity", "sysconf", "pread", "pwrite", "O_CLOEXEC", "getuid", "geteuid"):
    delattr(os, name)
shutil.disk_usage = lambda path: types.SimpleNamespace(total=2**40, free=2**39)
"""
"""What Windows lacks of POSIX. Its own ``shutil.disk_usage`` calls no statvfs."""

MSVCRT = """
def locking(fd, mode, number):
    assert mode == 2 and os.lseek(fd, 0, os.SEEK_CUR) > os.fstat(fd).st_size
    asked = struct.pack("hhqqi", real.F_WRLCK, os.SEEK_CUR, 0, number, 0)
    try:
        real.fcntl(fd, real.F_OFD_SETLK, asked)  # of the open file, as on Windows
    except BlockingIOError:
        raise PermissionError(errno.EACCES, "Permission denied") from None
sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
"""


def test_it_imports_and_counts_without_posix(run_python: Run, tmp_path: Path) -> None:
    code = """
import importlib, pkgutil, jaxnet
for module in pkgutil.walk_packages(jaxnet.__path__, "jaxnet."):
    if not module.name.endswith("._csr"):
        importlib.import_module(module.name)
from pathlib import Path
from jaxnet.provenance import processors
from jaxnet.provenance import available_memory
print(processors() >= 1, available_memory(Path(sys.argv[1])) == 2**32)
"""
    done = run_python("-W", "error", "-c", WITHOUT + code, str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "True True\n", "")


def test_without_any_locks_a_run_is_refused_in_one_line(run_python: Run, tmp_path: Path) -> None:
    code = (
        "from experiments.patched_density import STUDY\nfrom jaxnet.lab import run_main\n"
        "run_main(STUDY.main, STUDY.config, sys.argv[1:])"
    )
    out = tmp_path / "out"
    flags = ["--num-seeds", "1", "--kernel", "dense", "--sizes", "64,8,10", "--out", str(out)]
    done = run_python("-c", WITHOUT + code, *flags)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert "no locks for files" in done.stderr and "run on Linux, macOS or Windows" in done.stderr
    assert not out.exists()


def test_a_run_with_the_locks_of_windows(run_python: Run, tmp_path: Path) -> None:
    code = """
import numpy as np
from jaxnet.errors import InputError
from jaxnet.store import RunFolder, checkpoint
if sys.argv[2:]:
    try:
        RunFolder.open(sys.argv[1], {"a": 1}, resume=True).close()
        print("free")
    except InputError as error:
        print(str(error).removeprefix(sys.argv[1])[:39])
    sys.exit()
def other():
    return subprocess.run([*sys.orig_argv, "other"], capture_output=True, text=True, check=True).stdout
with RunFolder.open(sys.argv[1], {"a": 1}) as run:
    run.append_rows([{"line": "one\\n"}])
    checkpoint.save(run.checkpoints, "x", {"w": np.arange(3)})
    print(other(), end="")
    print(run.read_rows(), checkpoint.restore(run.checkpoints, "x", {"w": np.zeros(3, int)})[0])
    run.close()
    print(other(), end="")
"""
    done = run_python("-c", WITHOUT + MSVCRT + code, str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        ": another process is working in this fo",
        "[{'line': 'one\\n'}] {'w': array([0, 1, 2])}",
        "free",
    ]
