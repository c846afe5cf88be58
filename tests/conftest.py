"""What every test shares: one CPU device or the GPU, strict dtypes, keys with a visible seed, the data."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

# Before the first import of jax, and for the subprocesses of the tests too. `make test-gpu` names another.
os.environ["JAX_PLATFORMS"] = os.environ.get("JAXNET_TEST_PLATFORMS", "cpu")
if os.environ["JAX_PLATFORMS"] != "cpu":
    os.environ["JAXNET_CSR_ISA"] = "none"  # the csr kernel runs on the CPU alone, and its tests are skipped
# One device, however many processors there are; `run_python` gives its processes others.
os.environ["JAX_NUM_CPU_DEVICES"] = "1"
# A compile cache on disk (experiments turn one on) would let one run of the tests change the next.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
# As in JAX's own tests: most tests compile much and compute little, and LLVM's passes are half of that.
# `make test-slow` runs with all optimisations, as users do.
os.environ.setdefault(
    "JAX_DISABLE_MOST_OPTIMIZATIONS", "true" if os.environ["JAX_PLATFORMS"] == "cpu" else "false"
)
# Half of the rest is XLA's newer code generator for fused loops. Without it the last bits may depend on the
# shape: tests of that compile by `networks.as_users_compile`. A flag that XLA does not know ends the
# process, so it is given to the versions that are known to have it.
if (
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "true"
    and "fusion_emitters" not in os.environ.get("XLA_FLAGS", "")
    and version("jaxlib").startswith("0.10.")
):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()
os.environ["MPLBACKEND"] = "agg"
# Decoded images and kernel choices: not in the user's own cache, but kept from run to run.
os.environ.setdefault(
    "JAXNET_CACHE_DIR", str(Path(__file__).resolve().parent.parent / ".pytest_cache" / "jaxnet")
)

# A shell that starts the tests in the background has them ignore Ctrl-C, and their subprocesses too;
# some tests send one.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import jax
import pytest

ROOT = Path(__file__).resolve().parent.parent

jax.config.update("jax_numpy_dtype_promotion", "strict")

hypothesis.settings.register_profile(
    "local",
    deadline=None,  # the first example compiles
    max_examples=40,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
# The same examples in every run: a change is judged by what it changes.
hypothesis.settings.register_profile("ci", hypothesis.settings.get_profile("local"), derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture
def key(request: pytest.FixtureRequest) -> jax.Array:
    """A PRNG key of the test's own; a failure shows its seed.

    The seed comes from the test's name, so that it stays the same from run to
    run and differs from test to test. ``JAXNET_TEST_SEED=7 pytest ...`` sets it.
    """
    given = os.environ.get("JAXNET_TEST_SEED")
    seed = int(given) if given else zlib.crc32(request.node.nodeid.encode()) & 0x7FFFFFFF
    text = f"seed {seed}: repeat with JAXNET_TEST_SEED={seed}"
    request.node.add_report_section("setup", "fixture `key`", text)
    return jax.random.key(seed)


@pytest.fixture
def standard_promotion() -> Iterator[None]:
    """JAX's usual dtype promotion for one test: Optax's Adam (0.2.8) mixes float and int32."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with prepared data sets (MNIST, CIFAR-10); skips where there is none.

    ``JAXNET_DATA_DIR`` if set, else ``../shared/tfds`` beside the repository.
    """
    given = os.environ.get("JAXNET_DATA_DIR")
    folder = Path(given) if given else ROOT.parent / "shared" / "tfds"
    if not folder.is_dir():
        pytest.skip(f"no data folder {given or '../shared/tfds'}: set JAXNET_DATA_DIR to run this test")
    return folder


@pytest.fixture(scope="session")
def mnist_dir(data_dir: Path) -> Path:
    """:func:`data_dir`, where it holds MNIST; skips where it does not."""
    if not (data_dir / "mnist").is_dir():
        pytest.skip("the data folder has no mnist: prepare it, or set JAXNET_DATA_DIR to one that has")
    return data_dir


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``python *args`` in a process of its own, from the repository's root.

    ``devices=8`` gives it that many virtual CPU devices: their number is fixed
    when JAX starts, so no test can change it in the process of the others.
    ``env`` adds environment variables. The result has ``returncode``,
    ``stdout`` and ``stderr``; nothing is raised for a failure.
    """

    def run(
        *args: str, devices: int = 1, env: dict[str, str] | None = None, timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *args],
            cwd=ROOT,
            env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), **(env or {})},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
        )

    return run


@pytest.fixture
def mount_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many KiB, or gives the one from before as many; skips without the right."""
    disk = tmp_path / "disk"

    def mount(size: int) -> Path:
        how = f"{'remount,' if disk.exists() else ''}size={size}k"
        disk.mkdir(exist_ok=True)
        try:
            command = ["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(disk)]
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no right to mount a small file system")
        return disk

    yield mount
    if disk.is_mount():
        subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(autouse=True)
def _leave_config_as_it_was() -> Iterator[None]:
    """What a test sets for the whole process must not hold for the next one."""
    names = ("jax_numpy_dtype_promotion", "jax_enable_x64", "jax_compilation_cache_dir")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
