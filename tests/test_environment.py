"""The setting of the tests themselves, and what an installation of jaxnet brings along."""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("tensorflow", "torch", "jax-cuda", "nvidia")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def closure(requirements: list[str]) -> set[str]:
    """Names of all packages that the requirements pull in on this machine."""
    seen: set[tuple[str, str]] = set()  # (package, extra)
    todo = [(Requirement(text), "") for text in requirements]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted in {"", *requirement.extras} - {e for n, e in seen if n == name}:
            seen.add((name, wanted))
            try:
                todo += [(Requirement(text), wanted) for text in importlib.metadata.requires(name) or []]
            except importlib.metadata.PackageNotFoundError:
                continue
    return {name for name, _ in seen}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.cpu
def test_one_cpu_device_and_strict_dtypes():
    assert [device.platform for device in jax.devices()] == ["cpu"]
    with pytest.raises(jax.dtypes.TypePromotionError):
        jnp.float32(1) + jnp.int32(1)


def test_key_has_a_seed_of_the_tests_own(key):
    assert jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()


@pytest.mark.cpu
def test_other_device_counts_in_a_process_of_its_own(run_python):
    result = run_python("-c", "import jax; print(jax.device_count())", devices=8)
    assert (result.returncode, result.stdout) == (0, "8\n"), result.stderr


@pytest.mark.cpu
@pytest.mark.parametrize("given", [None, "3"])
def test_experiments_see_a_device_per_processor_unless_told_otherwise(run_python, given):
    code = """
import os
if os.environ["JAX_NUM_CPU_DEVICES"] == "1":
    del os.environ["JAX_NUM_CPU_DEVICES"]
from jaxnet.programs import use_all_processors
from jaxnet.provenance import processors
use_all_processors()
import jax
print(jax.local_device_count(), processors())
use_all_processors()  # JAX has started
"""
    result = run_python("-W", "error", "-c", code, devices=int(given or 1))
    assert result.returncode == 0, result.stderr
    devices, there = result.stdout.split()
    assert devices == (given or there)


def test_importing_the_library_is_silent_and_needs_no_extra(run_python):
    code = """
import importlib, pkgutil, sys, jaxnet
for module in pkgutil.walk_packages(jaxnet.__path__, "jaxnet."):
    if not module.name.endswith("._csr"):  # the compiled kernel lies among the modules and is none
        importlib.import_module(module.name)
print(sorted({"tensorflow", "torch", "pytest", "experiments"} & set(sys.modules)))
"""
    result = run_python("-W", "error", "-c", code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "[]\n", "")


def test_a_plain_installation_brings_neither_cuda_nor_tensorflow_nor_pytorch():
    allowed = {"tensorflow-datasets", "tensorflow-metadata"}  # both pure Python
    names = closure(project()["dependencies"])
    assert {"jaxlib", "numpy", "tensorflow-metadata"} <= names  # the closure is not empty
    assert not [name for name in names - allowed if name.startswith(HEAVY)]


def test_constraints_pin_all_that_is_installed_for_the_tests():
    wanted = [*project()["dependencies"], *project()["optional-dependencies"]["dev"]]
    pinned = pins()
    assert closure(wanted) - set(pinned) == set()


def test_constraints_allow_what_the_project_asks_for():
    pinned = pins()
    for texts in (project()["dependencies"], *project()["optional-dependencies"].values()):
        for requirement in map(Requirement, texts):
            version = pinned.get(canonicalize_name(requirement.name))
            assert version is None or requirement.specifier.contains(version), str(requirement)
