"""The command line: what the flags take, and that every error is one line that helps."""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnet.errors import InputError
from jaxnet.files import FULL
from jaxnet.lab.command import parse, run_main
from jaxnet.lab.terminal import print_table, progress

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Config:
    """Trains something.

    This paragraph is not part of the help.
    """

    seeds: int = field(default=64, metadata={"help": "networks at once, 100% of them"})
    learning_rate: float = field(default=0.1, metadata={"help": "step size", "unit": "1/step"})
    time_limit: float | None = field(default=None, metadata={"help": "stop after", "unit": "s"})
    batch: int | None = field(default=None, metadata={"none": "auto"})
    sizes: tuple[int, ...] = (784, 10)
    span: tuple[int, float] = (1, 0.5)
    kernel: Literal["dense", "csr"] = "dense"
    level: Literal[1, 2] = 1
    out: Path = Path("runs")
    label: str = ""
    resume: bool = False
    clip: bool = True
    hidden: int = field(default=7, metadata={"cli": False})

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InputError(f"--seeds must be at least 1: {self.seeds}")
        if self.batch == 13:
            raise ValueError("13 brings\nbad luck")


@dataclass(frozen=True)
class Required:
    name: str
    count: int = 1


def error_line(capsys: pytest.CaptureFixture[str], *argv: str, config: type = Config) -> str:
    with pytest.raises(SystemExit) as caught:
        parse(config, argv)
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == ""
    assert err.startswith("error: ") and err.endswith("\n") and len(err.splitlines()) == 1
    return err[len("error: ") : -1]


@pytest.mark.parametrize(
    ("argv", "changes"),
    [
        ([], {}),
        (["--seeds", "5"], {"seeds": 5}),
        (["--seeds=5", "--learning-rate", "1e-3"], {"seeds": 5, "learning_rate": 1e-3}),
        (["--learning-rate", "-1e-3"], {"learning_rate": -1e-3}),
        (["--sizes", "784,256,128,10"], {"sizes": (784, 256, 128, 10)}),
        (["--sizes", "-1, 2"], {"sizes": (-1, 2)}),
        (["--sizes", ""], {"sizes": ()}),
        (["--span", "3,0.25"], {"span": (3, 0.25)}),
        (["--time-limit", "3"], {"time_limit": 3.0}),
        (["--time-limit", "none", "--batch", "auto"], {}),
        (["--batch", "32"], {"batch": 32}),
        (["--kernel", "csr", "--level", "2"], {"kernel": "csr", "level": 2}),
        (["--resume", "--no-clip"], {"resume": True, "clip": False}),
        (["--learning_rate=5"], {"learning_rate": 5.0}),
        (["--out", "a b", "--label", "-x"], {"out": Path("a b"), "label": "-x"}),
    ],
)
def test_flags_make_the_configuration(argv: list[str], changes: dict[str, Any]) -> None:
    config = parse(Config, argv)
    assert config == dataclasses.replace(Config(), **changes)
    assert type(config.seeds) is int and type(config.learning_rate) is float


def test_a_path_may_begin_with_a_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for argv in (["--out=~/a b"], ["--out", "~/a b"]):
        assert parse(Config, argv).out == tmp_path / "a b"


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--seed", "5"], ["Unknown option: --seed.", "Did you mean --seeds?"]),
        (["--resume", "--no-resume"], ["resume", "specified multiple times"]),
        (["--zzzzzz"], ["Unknown option: --zzzzzz", "--help"]),
        (["--hidden", "3"], ["Unknown option: --hidden"]),
        (["-s", "3"], ["Unknown option", "-s"]),
        (["extra"], ["'extra'"]),
        (["--seeds", "many"], ["--seeds", "'many' is not a whole number"]),
        (["--seeds", "1.5"], ["--seeds", "'1.5' is not a whole number"]),
        (["--seeds", "a\nb"], [r"'a\nb' is not a whole number"]),
        (["--seeds", "9" * 5000], ["is not a whole number"]),
        (["--seeds"], ["--seeds requires an argument"]),
        (["--seeds", "--resume"], ["--seeds", "'--resume' is not a whole number"]),
        (["--seeds", "1", "--seeds=2"], ["--seeds specified multiple times"]),
        (["--seeds", "0"], ["--seeds must be at least 1: 0"]),
        (["--learning-rate", "fast"], ["--learning-rate", "'fast' is not a number"]),
        (["--learning-rate", "nan"], ["'nan' is not a finite number"]),
        (["--learning-rate", "-inf"], ["'-inf' is not a finite number"]),
        (["--learning-rate", "1e999"], ["'1e999' is not a finite number"]),
        (["--time-limit", "auto"], ["'auto' is not a number (or none)"]),
        (["--batch", "none"], ["'none' is not a whole number (or auto)"]),
        (["--batch", "13"], ["13 brings bad luck"]),
        (["--sizes", "784,,10"], ["--sizes", "'' is not a whole number"]),
        (["--span", "1"], ["--span", "2 values"]),
        (["--kernel", "sparse"], ["--kernel", "'sparse' is not one of dense, csr"]),
        (["--level", "3"], ["not one of 1, 2"]),
        (["--resume=perhaps"], ["--resume", "perhaps"]),
        (["--out=~nobody-here/a"], ["--out", "~nobody-here/a: there is no home folder ~nobody-here"]),
    ],
)
def test_an_error_is_one_line_that_names_flag_and_choices(
    capsys: pytest.CaptureFixture[str], argv: list[str], parts: list[str]
) -> None:
    line = error_line(capsys, *argv)
    assert all(part in line for part in parts), line


def test_a_required_flag_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--name" in error_line(capsys, config=Required)
    assert parse(Required, ["--name", "x"]) == Required("x")


def test_help_shows_text_default_and_unit(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(Config, ["--help"], prog="train")
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert caught.value.code == 0
    for part in (
        "Usage: train", "Trains something.", "networks at once, 100% of them [default: 64]",
        "step size [1/step] [default: 0.1]", "stop after [s] [default: none]", "[default: auto]",
        "[default: 784,10]", "choices: dense, csr", "--no-resume", "[default: no]", "[default: yes]",
    ):  # fmt: skip
        assert part in text, part
    assert "hidden" not in text and "paragraph" not in text and "None" not in text and "False" not in text


def test_help_without_a_docstring_shows_no_signature(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Required, ["--help"])
    text = capsys.readouterr().out
    assert "Required(" not in text and "[required]" in text


@given(st.integers(1), st.floats(allow_nan=False, allow_infinity=False), st.lists(st.integers(), max_size=5))
def test_values_survive_the_way_through_text(seeds: int, rate: float, sizes: list[int]) -> None:
    argv = ["--seeds", str(seeds), "--learning-rate", repr(rate), "--sizes", ",".join(map(str, sizes))]
    config = parse(Config, argv)
    assert (config.seeds, config.learning_rate.hex(), config.sizes) == (seeds, rate.hex(), tuple(sizes))


# Running


def ends(capsys: pytest.CaptureFixture[str], error: BaseException, config: type = Config) -> tuple[int, str]:
    def main(_config: object) -> None:
        raise error

    argv = ["--name", "x"] if config is Required else []
    with pytest.raises(SystemExit) as caught:
        run_main(main, config, argv)
    err = capsys.readouterr().err
    assert err.count("\n") <= 1
    assert isinstance(caught.value.code, int)
    return caught.value.code, err


def test_main_gets_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    got: list[Config] = []
    run_main(got.append, Config, ["--seeds", "3"])
    assert got == [Config(seeds=3)] and capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("two\nlines"), 2, "error: two lines\n"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), 2, "error: a/b: Permission denied\n"),
        (KeyboardInterrupt(), 130, "interrupted: the same command with --resume continues\n"),
        (BrokenPipeError(), 141, ""),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), 2, f"error: a/b: {FULL}\n"),
        (ValueError("OCDBT: write failed: No space left on device"), 2, f"error: {FULL}\n"),
        (MemoryError(), 2, "error: out of memory: use fewer seeds"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), 2, "error: out of memory"),
    ],
)
def test_an_exception_becomes_one_line_and_a_code(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    got, text = ends(capsys, error)
    assert got == code and text.startswith(line) and bool(text) == bool(line)


def test_without_resume_an_interrupt_promises_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(capsys, KeyboardInterrupt(), Required) == (130, "interrupted\n")


@pytest.mark.parametrize("error", [ValueError("bug"), RuntimeError("bug"), ZeroDivisionError()])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    def main(_config: object) -> None:
        raise error

    with pytest.raises(type(error)):
        run_main(main, Config, [])


SCRIPT = """
import sys, time
from dataclasses import dataclass
from jaxnet.lab.command import run_main
from jaxnet.lab.terminal import print_table, progress

@dataclass(frozen=True)
class Config:
    wait: bool = False
    rows: int = 2
    resume: bool = False

def main(config):
    with progress(3, "working") as show:
        show(advance=1, note="one")
        show(completed=3)
    if config.wait:
        print("ready", flush=True)
        time.sleep(60)
    print_table("Results", ["name", "value"], [["a" * 120, i] for i in range(config.rows)])

run_main(main, Config)
"""


def test_a_script_without_a_terminal_prints_its_table_only(run_python: Callable[..., Any]) -> None:
    done = run_python("-c", SCRIPT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[3:] == ["a" * 120 + "      0", "a" * 120 + "      1"]
    done = run_python("-c", SCRIPT, "--row", "3")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: Unknown option: --row. Did you mean --rows? (--help lists the flags)\n"


def test_an_interrupted_script_leaves_one_line() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "--wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=ROOT,
    )  # fmt: skip
    assert child.stdout is not None
    with child:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (130, "interrupted: the same command with --resume continues\n")


def test_a_reader_that_goes_away_is_no_error() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "--rows", "20000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=ROOT,
    )  # fmt: skip
    assert child.stdout is not None and child.stderr is not None
    with child:
        assert child.stdout.readline() == "Results\n"
        child.stdout.close()
        assert child.stderr.read() == ""
    assert child.returncode == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_an_output_that_is_full_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
    assert (done.returncode, done.stderr) == (2, f"error: {FULL}\n")


# The terminal


def on_terminal(*argv: str) -> str:
    """What the script shows on a terminal of its own, 80 columns wide."""
    leader, follower = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *argv], stdout=follower, stderr=follower, cwd=ROOT, env=env
    )
    os.close(follower)
    data = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        data += chunk
    os.close(leader)
    assert child.wait() == 0, data
    return data.decode()


def test_on_a_terminal_there_is_a_bar_and_no_cell_is_cut() -> None:
    text = on_terminal()
    assert "working" in text and "3/3" in text
    assert text.count("a") >= 240 and "…" not in text


def test_a_table_of_mixed_cells(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("[b]Title[/b]", ["name", "acc", "n"], [["[red]x", 0.5, None], ["y", None, 12]])
    assert capsys.readouterr().out.splitlines() == [
        "[b]Title[/b]",
        "name    acc   n",
        "------  ---  --",
        "[red]x  0.5   -",
        "y         -  12",
    ]
    print_table("Empty", ["a", "b"], [])
    assert capsys.readouterr().out.splitlines() == ["Empty", "a  b", "-  -"]
    with pytest.raises(ValueError, match="2 columns"):
        print_table("Wrong", ["a", "b"], [[1]])


def test_a_sign_the_output_does_not_know_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    with monkeypatch.context() as patch:
        stdout = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
        patch.setattr(sys, "stdout", stdout)
        print_table("±", ["a"], [["é"]])
    assert raw.getvalue().splitlines() == [b"?", b"a", b"-", b"?"]


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(10, "working") as show:
        show(advance=3, note="[x]")
        show(completed=10)
    assert capsys.readouterr() == ("", "")
