"""``indefinite_growth`` from end to end on the digits: outputs, kill and resume, wrong input."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from experiments import indefinite_growth_controls as controls
from experiments.indefinite_growth import STUDY, Config, settle
from jaxnet import lab
from jaxnet.kernels import PRODUCTS
from jaxnet.lab import run_main
from tests.experiments.hunts import Hunted
from tests.experiments.patched import (
    arrays,
    cache_variables,
    compiling_once,
    contents,
    read_json,
    results,
    shown_nan,
)

Run = Callable[..., subprocess.CompletedProcess[str]]

SMALL: dict[str, Any] = {
    "protocol": "seed",
    "sizes": (64, 12, 10),
    "density": 0.2,
    "iterations": 2,
    "epochs": 2,
    "target": 0.99,
    "min_ratio": 0.0,
    "max_size": 9,
    "max_patches": 2,
    "num_seeds": 2,
    "kernel": "csr" if "csr" in PRODUCTS else "dense",
}
WEIGHTS = [153 + 24, 153 + 21 + 18]  # int(0.2 * 64 * 12) + int(0.2 * 12 * 10); then 12-9 and 9-10


def as_flags(values: dict[str, Any]) -> list[str]:
    flags: list[str] = []
    for name, value in values.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        flags += [f"--{name.replace('_', '-')}", text]
    return flags


@pytest.fixture(scope="session")
def grown(tmp_path_factory: pytest.TempPathFactory, xla_cache: Path) -> tuple[Path, list[str]]:
    """The small run: its folder and the lines it reported."""
    folder = tmp_path_factory.mktemp("grown") / "out"
    lines: list[str] = []
    with compiling_once(xla_cache):
        STUDY.main(Config(**SMALL, out=str(folder)), lines.append)
    return folder, lines


def test_outputs(grown: tuple[Path, list[str]]) -> None:
    folder, lines = grown
    summary = read_json(folder / "summary.json")
    saved = arrays(folder)
    for place, s in enumerate(summary["seeds"]):
        assert s["stop_reason"] == "budget: iterations" and s["iterations"] == 2
        assert s["architecture"] == [64, 12, 9, 10]
        assert [h["nonzeros"]["scaffold"] for h in s["history"]] == WEIGHTS
        assert s["accuracy"] == pytest.approx(s["history"][-1]["accuracy"])
        assert round(s["accuracy"] * 359) / 359 == s["accuracy"], "of 359 test samples"
        assert s["density"] == s["nonzeros"]["scaffold"] / (64 * 12 + 12 * 9 + 9 * 10)
        assert s["patch_weights"] == s["nonzeros"]["patch"]
        name = f"['networks'][{place}].structure.scaffold"
        there = sum(
            int((saved[f"{name}[{k}].weight.rows"] < out).sum())
            for k, out in enumerate(s["architecture"][1:])
        )
        assert there == WEIGHTS[1]
        # as in the original, the patches found before the layer was inserted feed it, by its index
        bank = f"['networks'][{place}].structure.bank.layers"
        assert saved[f"{bank}[1].topology.row_ptr"].shape == (9 + 1,) and f"{bank}[2].unit" not in saved
        high = s["history"][0]["extrema_high"][0]
        assert s["history"][0]["patches"] == 0 and s["history"][1]["patches"] == min(2, high)
        assert s["history"][0]["decision"]["change"] == "insert"
    assert sum("seed 1, iteration 2: 64-12-9-10" in line for line in lines) == 1
    assert any("insert 9 units behind layer 1, add patches (" in line for line in lines)
    for plot in ("growth.png", "architectures.png"):
        assert matplotlib.image.imread(folder / plot).std() > 0
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = max(r["accuracy"] for r in rows if r["seed"] == 0 and r["iteration"] == 2)
    assert summary["seeds"][0]["accuracy"] == pytest.approx(best), "protocol seed: the best test epoch"


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan",
    [
        # a grown network, in the middle of its training
        [["kill", "before", "iteration-2-epoch-2", 1], None],
        [
            ["kill", "after", "iteration-1-epoch-2", 1],  # trained, nothing decided
            ["kill", "before", "iteration-2-epoch-2", 1],
            None,
        ],
        [
            ["kill", "half", "metrics.jsonl", 2],
            ["kill", "half", "metrics.jsonl", 2],
            ["kill", "before", "summary.json", 1],
            None,
        ],
    ],
    ids=["2 stages", "3 stages", "4 stages"],
)
def test_killed_anywhere_it_ends_bit_for_bit_the_same(
    plan: list[Any], grown: tuple[Path, list[str]], tmp_path: Path, xla_cache: Path, run_python: Run
) -> None:
    out = tmp_path / "out"
    flags = [*as_flags(SMALL), "--out", str(out), "--resume"]
    done = run_python(
        "-m",
        "tests.experiments.stop_growth_at",
        json.dumps(plan),
        *flags,
        env=cache_variables(xla_cache),
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)
    assert [code for code, _ in stages] == [-signal.SIGKILL] * (len(plan) - 1) + [0], stages
    assert results(out) == results(grown[0])


@pytest.mark.slow
def test_lean_is_judged_once_on_the_test_samples(tmp_path: Path, xla_cache: Path) -> None:
    lean: dict[str, Any] = {
        "recipe": "lean",
        "sizes": (64, 12, 8, 10),
        "density": 0.2,
        "added": 40,
        "size": 4,
    }
    with compiling_once(xla_cache):
        summary = STUDY.main(
            Config(
                **lean, epochs=2, iterations=3, num_seeds=2, kernel=SMALL["kernel"], out=str(tmp_path / "out")
            )
        )
    for s in summary["seeds"]:
        start = int(0.2 * (64 * 12 + 12 * 8 + 8 * 10))
        assert [h["nonzeros"]["scaffold"] for h in s["history"]] == [start, start + 40, start + 80]
        assert s["accuracy"] != s["history"][-1]["accuracy"]
        even, odd = s["accuracy_halves"]
        assert s["accuracy"] == pytest.approx((180 * even + 179 * odd) / 359), "of 359 test samples"


WRONG = [
    (["--target", "1.01"], "--target must be above 0 and at most 1: 1.01"),
    (["--target", "0"], "--target must be above 0"),
    (["--sizes", "64,0,10"], "--sizes needs three or more positive sizes"),
    (["--sizes", "64,10"], "--sizes needs three or more positive sizes"),
    (["--sizes", "64,8,9"], "does not fit digits"),
    (["--density", "0"], "--density must be above 0"),
    (["--max-nonzeros", "20"], "the budget of 20 weights is exceeded at the start: 64-128-10"),
    (["--size", "0"], "--size must be at least 1: 0"),
    (["--max-size", "0"], "--max-size must be at least 1: 0"),
    (["--added", "0"], "--added must be at least 2: 0"),
    (["--iterations", "0"], "--iterations must be at least 1: 0"),
    (["--time-limit", "0"], "--time-limit must be above 0: 0.0"),
    (["--recipe", "lean", "--patience", "3"], "--schedule cosine needs iterations of equal length"),
    (["--exchange", "gradient"], "--exchange goes with iterations of equal length"),
    (["--operator", "preserve", "--activation", "tanh"], "--operator redraw"),
    (["--place", "middle"], "'middle' is not one of worst, share, least, random, last"),
    (["--resume", "--overwrite"], "exclude each other"),
    (["--prune", "0.5,1"], "--prune must be fractions below 1, at least one: [0.5, 1.0]"),
    (["--min-gain", "-0.1"], "--min-gain must be at least 0: -0.1"),
    (["--from-checkpoint", "nowhere"], "nowhere: there is no such folder: give one listed under winners"),
    (["--grow"], "Unknown option: --grow"),
]


@pytest.mark.parametrize(("argv", "words"), WRONG, ids=[" ".join(argv) for argv, _ in WRONG])
def test_wrong_input(argv: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        run_main(STUDY.main, Config, [*argv, "--out", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == ""
    assert err.startswith("error: ") and len(err.splitlines()) == 1 and words in err, err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_hunts_winner_grows(hunted: Hunted, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    winner = hunted.folder / hunted.summary["winners"][0]["path"]
    given = ["--from-checkpoint", str(winner), "--out", str(tmp_path / "out")]
    for more, words in (
        (["--protocol", "seed"], "was trained under --protocol clean, which splits the samples otherwise"),
        (["--normalise", "pixels"], "was trained on pixels that are normalised otherwise: leave --normalise"),
        (["--dataset", "cliff"], "was trained on other data (digits,"),
        (["--sizes", "64,9,10"], "--sizes 64,9,10 contradicts the checkpoint"),
    ):
        with pytest.raises(SystemExit) as caught:
            run_main(STUDY.main, Config, [*given, *more])
        err = capsys.readouterr().err
        assert caught.value.code == 2 and len(err.splitlines()) == 1 and words in err, err
    assert list(tmp_path.iterdir()) == []
    config = Config(from_checkpoint=str(winner), num_seeds=2, iterations=1, epochs=1)
    settled = settle(config, lab.run.load(config))
    assert settled.sizes == (64, 24, 10) and settled.density in (0.1, 0.3) and settled.checkpoint_fingerprint


@pytest.mark.parametrize("changes", [{"sizes": (64, 13, 10)}, {"target": 0.5}, {"num_seeds": 3}])
def test_a_checkpoint_of_another_architecture(
    changes: dict[str, Any], grown: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(grown[0])
    with pytest.raises(SystemExit) as caught:
        run_main(STUDY.main, Config, [*as_flags({**SMALL, **changes}), "--out", str(grown[0]), "--resume"])
    err = capsys.readouterr().err
    assert caught.value.code == 2 and len(err.splitlines()) == 1 and next(iter(changes)) in err, err
    assert contents(grown[0]) == before


@pytest.mark.slow
def test_controls_end_with_equal_non_zeros(tmp_path: Path, xla_cache: Path) -> None:
    doc = tmp_path / "growth.md"
    small: dict[str, Any] = {
        "dataset": "digits",
        "num_seeds": 2,
        "sizes": (64, 16, 16, 10),
        "density": 0.2,
        "added": 40,
        "iterations": 3,
        "epochs": 2,
        "described_seeds": 0,
    }
    with compiling_once(xla_cache):
        controls.CONTROLS.main(controls.Config(**small, doc=str(doc), out=str(tmp_path / "out")))
    start = int(0.2 * (64 * 16 + 16 * 16 + 160))
    for folder in (tmp_path / "out").iterdir():
        for s in read_json(folder / "summary.json")["seeds"]:
            wanted = start if "train-longer" in folder.name else start + 80
            assert s["nonzeros"]["scaffold"] == wanted, folder
    text = doc.read_text()
    assert all(f"| {name} |" in text for name in controls.ARMS) and "## Verdict" in text
    assert "| last layer | layer 2: 4 |" in text, "two seeds, two changes"
    assert doc.with_suffix(".png").exists()
    numbers = read_json(doc.with_suffix(".json"))
    assert list(numbers["arms"]) == list(controls.ARMS) and len(numbers["comparisons"]) == 13
    assert all(c["verdict"] == "no verdict" and c["p_holm"] >= c["p"] for c in numbers["comparisons"])


def test_networks_that_diverged(
    skewed: str, tmp_path: Path, xla_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    wild: dict[str, Any] = {"dataset": skewed, "sizes": (32, 8, 5), "density": 0.3, "epochs": 1, "lr": 1e30}
    flags: dict[str, Any] = {
        "num_seeds": 2,
        "kernel": "dense",
        "protocol": "seed",
        "out": str(tmp_path / "out"),
    }
    with compiling_once(xla_cache):
        STUDY.main(Config(**wild, **flags), lines.append)
    summary = read_json(tmp_path / "out" / "summary.json")
    assert summary["diverged"] == [0, 1]
    for seed in summary["seeds"]:
        assert seed["stop_reason"] == "diverged" and seed["accuracy"] is None
        assert seed["history"][-1]["accuracy"] is None and seed["density"] == (76 + 12) / (32 * 8 + 8 * 5)
    assert all(numbers["mean"] is None for numbers in summary["aggregate"].values())
    assert any("iteration 1: 32-8-5, diverged, extrema" in line for line in lines)
    assert any(line.startswith("diverged: 2 of 2 networks (seeds 0, 1)") for line in lines)
    assert "0 of 2 reached" in capsys.readouterr().out
    groups = {
        "arms": dict.fromkeys(controls.ARMS, summary),
        "headline": dict.fromkeys(controls.HEADLINE, summary),
    }
    document = dataclasses.replace(controls.CONTROLS, run=lambda config: groups)
    document.main(controls.Config(doc=str(tmp_path / "doc.md"), described_seeds=0))
    text = (tmp_path / "doc.md").read_text()
    assert shown_nan(text) == [] and "Diverged: 24 of 24 networks (extrema, seed 0; " in text
