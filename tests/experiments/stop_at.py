"""Runs ``experiments.patched_density`` several times, each stopped at a moment of its own.

    python -m tests.experiments.stop_at '[["kill", "half", "metrics.jsonl", 2], null]' --out ...

Every stage is a process that is forked before JAX starts. It runs the command
line that follows the stages; null lets it finish. The other stages name a
signal (``kill``, ``int``) that the process sends itself at the ``count``-th time
it writes, or renames something to, a file whose name ends so:

* ``half``: half of what is being written is in the file;
* ``before``, ``after``: the renaming.

Prints a JSON list: for every stage its exit code (negative: the signal) and stderr.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import tempfile
from typing import Any

import jaxnet.lab.plots
import jaxnet.lab.stages  # slow to import: once, not in every stage
import jaxnet.store.checkpoint
from experiments import patched_density
from jaxnet import files
from jaxnet.lab import Study
from jaxnet.lab.command import run_main

jaxnet.store.checkpoint.OVERHEAD = math.inf  # a checkpoint after every epoch, so that moments can be named

SIGNALS = {"kill": signal.SIGKILL, "int": signal.SIGINT}


def arm(how: str, moment: str, suffix: str, count: int) -> None:
    """Prepares this process to stop at the moment given."""
    left = count

    def reached(name: Any) -> bool:
        nonlocal left
        left -= str(name).endswith(suffix)
        return left == 0 and str(name).endswith(suffix)

    def stop() -> None:
        os.kill(os.getpid(), SIGNALS[how])

    write_all = files.write_all

    def half_write(fd: int, data: bytes) -> None:
        if reached(os.readlink(f"/proc/self/fd/{fd}")):
            write_all(fd, data[: len(data) // 2])
            stop()
        write_all(fd, data)

    def around(rename: Any) -> Any:
        def stopping(source: Any, target: Any, **more: Any) -> None:
            here = reached(target)
            if here and moment == "before":
                stop()
            rename(source, target, **more)
            if here and moment == "after":
                stop()

        return stopping

    if moment == "half":
        files.write_all = half_write
    else:
        os.rename, os.replace = around(os.rename), around(os.replace)


def run_stage(study: Study[Any], stage: list[Any] | None, argv: list[str]) -> tuple[int, str]:
    """Runs one stage in a forked process; its exit code and stderr."""
    with tempfile.TemporaryFile() as stderr:
        child = os.fork()
        if not child:
            os.dup2(stderr.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = 70
            try:
                if stage is not None:
                    arm(*stage)
                run_main(study.main, study.config, argv)
                code = 0
            except SystemExit as leave:
                code = int(leave.code or 0)
            except BaseException:
                import traceback

                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        stderr.seek(0)
        return status, stderr.read().decode()


def stop(study: Study[Any]) -> None:
    """Runs the stages of the command line."""
    stages = json.loads(sys.argv[1])
    print(json.dumps([run_stage(study, stage, sys.argv[2:]) for stage in stages]))


if __name__ == "__main__":
    stop(patched_density.STUDY)
