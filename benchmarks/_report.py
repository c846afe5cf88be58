"""What every benchmark prints and saves: the machine, medians and ranges, timed processes."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from jaxnet.errors import InputError
from jaxnet.files import user_path, write_bytes, write_json
from jaxnet.lab import option
from jaxnet.lab.flags import Flags
from jaxnet.lab.terminal import print_table
from jaxnet.provenance import processors, provenance

ROOT = Path(__file__).resolve().parent.parent
"""The repository's root, where ``python -m`` finds experiments and benchmarks."""


_clock: Callable[[], float] = time.perf_counter


def use_clock(name: Literal["wall", "processor"]) -> None:
    """Has :func:`clock` count the seconds that pass, or those that this process computes."""
    global _clock
    _clock = time.perf_counter if name == "wall" else time.process_time


def clock() -> float:
    """Seconds, of which only differences have a meaning."""
    return _clock()


@dataclass(frozen=True)
class NumbersFlags(Flags):
    """Where the numbers of a benchmark go."""

    json: str | None = option(None, "also write the numbers to this file")

    def check(self) -> None:
        """Raises InputError for a file that cannot be."""
        check_output(self.json)
        super().check()


@dataclass(frozen=True)
class ClockFlags(NumbersFlags):
    """And what is counted."""

    clock: Literal["wall", "processor"] = option(
        "wall", "seconds that pass, or of the processor (on one core, where others are busy)"
    )


class Spread(TypedDict):
    """Median and range of repeated measurements, and the measurements."""

    median: float
    min: float
    max: float
    n: int
    values: list[float]


@dataclass(frozen=True)
class Process:
    """What a finished process took.

    Attributes:
      wall_seconds: from its start to its end.
      cpu_seconds: of all its threads, user and system.
      load_before: runnable processes on the machine when it started (average of the
        minute before, our own runs included).
    """

    wall_seconds: float
    cpu_seconds: float
    load_before: float


def spread(values: Sequence[float]) -> Spread:
    """Median and range of one or more measurements.

    Raises:
      ValueError: there is none.
    """
    if not values:
        raise ValueError("no measurements")
    kept = [float(v) for v in values]
    return Spread(median=statistics.median(kept), min=min(kept), max=max(kept), n=len(kept), values=kept)


def alternate(cases: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every case, ``repeats`` times in turn; a first time, which may compile, is not counted.

    A case must wait for its own result.
    """
    times: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats + 1):
        for name, case in cases.items():
            before = clock()
            case()
            if repeat:
                times[name].append(clock() - before)
    return times


def shown(measured: Spread, digits: int = 1, unit: str = "") -> str:
    """``median (min..max)``; the median alone for a single measurement."""
    middle = f"{measured['median']:.{digits}f}{unit}"
    if measured["n"] == 1:
        return middle
    return f"{middle} ({measured['min']:.{digits}f}..{measured['max']:.{digits}f})"


def ratio(numerator: Sequence[float], denominator: Sequence[float], factor: float = 1.0) -> Spread:
    """Ratios of the pairs measured next to each other, times ``factor``.

    Pairs share what else the machine was doing, so their ratios scatter less
    than the times themselves.

    Raises:
      ValueError: there are not as many of one as of the other.
    """
    return spread([factor * a / b for a, b in zip(numerator, denominator, strict=True)])


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, memory and operating system; no host name."""
    return {
        "processor": _processor(),
        "cpu_cores": processors(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def describe(machine: Mapping[str, Any], versions: Mapping[str, str | None]) -> str:
    """One line for the terminal: the machine and the versions that matter."""
    known = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return (
        f"{machine['processor']}, {machine['cpu_cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']}; {known}"
    )


def timed_process(
    command: Sequence[str], *, what: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> Process:
    """Runs a command to its end and times the whole process.

    Args:
      command: program and arguments.
      what: names it in an error.
      env: environment variables to add.
      cwd: working directory.

    Raises:
      InputError: it did not end well; the message has the last line it said.
    """
    load = os.getloadavg()[0]
    with tempfile.TemporaryFile() as said:  # not a pipe: a talkative process must not wait for us
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        code = subprocess.call(
            list(command),
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        wall = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if code:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            last = lines[-1].strip() if lines else "it said nothing"
            raise InputError(f"{what} ended with code {code}: {last}")
    cpu = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
    return Process(wall, cpu, load)


def _processor() -> str:
    """The processor's name, or the architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def check_output(json: str | None, doc: str | None = None) -> None:
    """Raises InputError where a result could not be written, before anything is measured."""
    if json is not None and not user_path(json).absolute().parent.is_dir():
        raise InputError(f"--json {json}: there is no such folder, create it first")
    if doc is not None and not user_path(doc).is_file():
        raise InputError(f"--doc {doc}: there is no such file")


def publish(
    name: str,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    summary: str,
    doc: str | None,
) -> None:
    """Prints a table with its summary; puts both into the section ``name`` of a document, if there is one."""
    print(summary)
    print_table(title, columns, rows)
    if doc is not None:
        write_section(user_path(doc), name, f"{title}.\n\n{markdown(columns, rows)}\n\n{summary}")


def write_numbers(json: str | None, config: Any, found: Mapping[str, Any]) -> None:
    """Writes what was found to the file asked for, if any, with flags, versions and machine beside it."""
    if json is not None:
        known = {"config": asdict(config), "provenance": provenance(), "machine": machine()}
        write_json(user_path(json), {**known, "found": found})


def write_section(doc: Path, name: str, text: str) -> None:
    """Replaces what stands between ``<!-- name -->`` and ``<!-- end name -->`` in a document.

    Raises:
      InputError: the document has no such section.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->\n"
    before, found, rest = doc.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise InputError(f"{doc} has no section from '{begin.strip()}' to '{end.strip()}'")
    write_bytes(doc, f"{before}{begin}{text.strip()}\n{end}{after}".encode())


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; ``None`` is shown as ``-``."""
    lines = [list(columns), ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join("-" if c is None else str(c) for c in line) + " |" for line in lines)
