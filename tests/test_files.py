"""The cache folder: one for everything that may be forgotten."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

from experiments._runtime import use_compilation_cache
from jaxnet.files import cache_folder
from jaxnet.kernels.choice import choices_file


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home folder, and no variable that names another place."""
    for name in ("JAXNET_CACHE_DIR", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    return tmp_path


def test_the_cache_folder_by_variable_then_platform(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == home / ".cache" / "jaxnet"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == home / "Library" / "Caches" / "jaxnet"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, by the XDG rules
    assert cache_folder() == home / "Library" / "Caches" / "jaxnet"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "xdg"))
    assert cache_folder() == home / "xdg" / "jaxnet"
    monkeypatch.setenv("JAXNET_CACHE_DIR", str(home / "own"))
    assert cache_folder() == home / "own"


def test_everything_lies_in_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXNET_CACHE_DIR", str(home / "own"))
    assert choices_file() == home / "own" / "kernel_choices.json"
    use_compilation_cache()
    assert jax.config.values["jax_compilation_cache_dir"] == str(home / "own" / "xla")


def test_without_a_home_folder_there_is_no_cache_and_no_failure(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(OSError, match="no home folder"):
        cache_folder()
    before = jax.config.values["jax_compilation_cache_dir"]
    use_compilation_cache()
    assert jax.config.values["jax_compilation_cache_dir"] == before
