"""What jaxnet finds on this machine: ``python -m jaxnet.info``.

Versions, devices, the sparse kernels and the kernel choices remembered; the
first thing to look at, and to copy into a report, when something is slow.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Sequence
from importlib import metadata

import jax

from jaxnet.kernels import PRODUCTS, choice, csr_library, persistent
from jaxnet.provenance import DISTRIBUTION, processors

_PACKAGES = (DISTRIBUTION, "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def version(package: str) -> str:
    """The installed version of a package, or ``"not installed"``."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def report() -> str:
    """Versions, devices and kernels, one ``name: value`` per line."""
    try:
        devices = ", ".join(f"{d.platform}:{d.id} ({d.device_kind})" for d in jax.devices())
    except RuntimeError as error:  # a backend was asked for that is not there
        devices = f"none ({' '.join(str(error).split())})"
    csr = csr_library.instruction_set() if csr_library.available() else f"not there: {csr_library.problem()}"
    reason = _gpu_problem()
    limit = os.environ.get("JAXNET_NUM_THREADS")
    lines = {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        **{package: version(package) for package in _PACKAGES},
        "devices": devices,
        "processors": f"{processors()}" + (f", JAXNET_NUM_THREADS={limit}" if limit else ""),
        "kernels": ", ".join(PRODUCTS),
        "csr kernel": csr,
        "GPU kernel": "persistent, where a trial shows that it is right"
        if reason is None
        else f"not there: {reason}",
        "kernel choices": f"{len(choice.remembered())} remembered in {_choices_file()}",
    }
    return "\n".join(f"{name}: {value}" for name, value in lines.items())


def _gpu_problem() -> str | None:
    try:
        return persistent.missing()
    except RuntimeError as error:
        return " ".join(str(error).split())


def _choices_file() -> str:
    try:
        return str(choice.choices_file())
    except OSError as error:
        return f"no file ({error})"


def choices_report() -> str:
    """The kernel choices remembered, one task per line."""
    choices = choice.remembered()
    if not choices:
        return "no kernel choices remembered"
    lines = []
    for task, found in sorted(choices.items()):
        times = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in found["seconds"].items())
        lines.append(f"{found['kernel']}: {task} ({times})")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the report, or shows or clears the kernel choices."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxnet.info", description="What jaxnet finds on this machine."
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--kernel-choices", action="store_true", help="show which kernel was faster for which task"
    )
    group.add_argument(
        "--clear-kernel-choices", action="store_true", help="forget them, so as to measure again"
    )
    options = parser.parse_args(arguments)
    if options.kernel_choices:
        print(choices_report())
    elif options.clear_kernel_choices:
        print(f"{choice.clear()} kernel choices forgotten")
    else:
        print(report())


if __name__ == "__main__":
    main()
