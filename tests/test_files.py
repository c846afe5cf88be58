"""Paths from outside; the cache folder: one for everything that may be forgotten."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

from jaxnet.errors import InputError
from jaxnet.files import cache_folder, read_json, user_path, write_json
from jaxnet.kernels.choice import choices_file
from jaxnet.programs import use_compilation_cache


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home folder, and no variable that names another place."""
    for name in ("JAXNET_CACHE_DIR", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("~", "{home}"),
        ("~/runs/a", "{home}/runs/a"),
        (Path("~/runs/a"), "{home}/runs/a"),
        ("runs/~", "runs/~"),
        ("runs/~/a", "runs/~/a"),
        ("/data/a", "/data/a"),
        ("", "."),
        ("./~a", "{cwd}/~a"),
        ("./~/a", "{cwd}/~/a"),
    ],
)
def test_a_home_folder_at_the_start_is_expanded_and_nothing_else(
    home: Path, monkeypatch: pytest.MonkeyPatch, given: str | Path, found: str
) -> None:
    monkeypatch.chdir(home)
    expected = Path(found.format(home=home, cwd=home))
    assert user_path(given) == expected
    assert user_path(user_path(given)) == user_path(str(user_path(given))) == expected


def test_an_unknown_home_folder_is_one_line_with_two_ways_out(home: Path) -> None:
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        user_path("~nobody-here/runs")
    assert str(caught.value) == (
        "~nobody-here/runs: there is no home folder ~nobody-here: give the whole path, or "
        "./~nobody-here/runs where that is its name"
    )


def test_files_in_the_home_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    write_json(Path("~/a.json"), {"a": 1})
    assert read_json("~/a.json") == read_json(home / "a.json") == {"a": 1}
    assert [path.name for path in home.iterdir()] == ["a.json"]


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
    monkeypatch.setenv("JAXNET_CACHE_DIR", "~/own")
    assert cache_folder() == home / "own"
    monkeypatch.setenv("JAXNET_CACHE_DIR", "~nobody-here/own")
    with pytest.raises(OSError, match=r"^JAXNET_CACHE_DIR ~nobody-here/own: there is no home folder"):
        cache_folder()


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
