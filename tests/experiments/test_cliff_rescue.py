"""``experiments.cliff_rescue`` at a small size: counts, pairs, killed and continued, wrong input."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from experiments import cliff_rescue, cliff_rescue_report
from jaxnet.allocation import allocate
from jaxnet.lab import run_main, stages
from tests.experiments import cliff
from tests.experiments.patched import cache_variables, compiling_once, read_json, read_rows, shown_nan

FEW: dict[str, Any] = {"arms": ("random", "static", "static-erdos-renyi"), "epochs": 4}
"""What compiles in seconds: no arm that looks for extrema."""


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory, xla_cache: Path) -> Path:
    """A run of few arms."""
    out = tmp_path_factory.mktemp("few") / "run"
    cliff.run(xla_cache, out, **FEW)
    return out


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, xla_cache: Path) -> Path:
    """A run of all arms."""
    out = tmp_path_factory.mktemp("cliff") / "run"
    cliff.run(xla_cache, out)
    return out


@pytest.fixture(scope="module")
def arms(finished: Path) -> dict[str, Any]:
    """What its summary says of every arm."""
    return dict(json.loads((finished / "summary.json").read_text())["arms"])


@pytest.mark.slow
def test_random_growth_adds_exactly_its_share(few: Path) -> None:
    arms = json.loads((few / "summary.json").read_text())["arms"]
    assert list(arms) == ["static", "random", "static-erdos-renyi"]
    start = allocate((64, 12, 8, 10), 0.2)
    more = (max(1, int(0.1 * start[0])), max(1, int(0.1 * start[1])), 0)  # once, not after the last epoch
    for name, expected in (
        ("static", start),
        ("random", tuple(np.add(start, more))),
        ("static-erdos-renyi", allocate((64, 12, 8, 10), 0.2, "erdos-renyi")),
    ):
        assert all(s["nonzeros"]["layers"] == list(expected) for s in arms[name]["seeds"])
        assert all(s["weights"] == sum(expected) for s in arms[name]["seeds"])


@pytest.mark.slow
def test_every_arm_has_exactly_the_weights_that_it_should(arms: dict[str, Any]) -> None:
    start = allocate((64, 12, 8, 10), 0.2)
    first, second = (max(1, int(0.1 * n)) for n in start[:-1])
    more = 2 * (first + second)  # after epochs 2 and 4, not after the last
    shared = allocate((64, 12, 8, 10), 0.2, "erdos-renyi")
    layers = {name: [s["nonzeros"]["layers"] for s in arm["seeds"]] for name, arm in arms.items()}
    assert list(arms) == list(cliff.ARMS)
    assert all(n == list(start) for name in ("static", "clone-and-prune") for n in layers[name])
    assert all(n == [start[0] + 2 * first, start[1] + 2 * second, start[2]] for n in layers["random"])
    assert all(n == [start[0], start[1], start[2] + more] for n in layers["random-output"])
    assert all(n == list(shared) for n in layers["static-erdos-renyi"])
    for name, arm in arms.items():
        grows = name in ("random", "random-output", "skips")
        for seed in arm["seeds"]:
            times = seed.get("growths")
            assert (times is not None) == name.startswith("scheduler")
            assert ("ensemble_accuracy" in seed) == (name in ("scheduler-complete", "scheduler-fixes"))
            if seed.get("restored"):
                continue  # back to fewer weights
            added = times * (first + second) if times is not None else more if grows else 0
            total = sum(shared) if name == "static-erdos-renyi" else sum(start)
            assert seed["weights"] == total + added
            assert seed["nonzeros"]["skip"] == seed["weights"] - sum(seed["nonzeros"]["layers"])
            assert seed["skip_weights"] == seed["nonzeros"]["skip"], "apart from the density"
            assert seed["density"] == sum(seed["nonzeros"]["layers"]) / (64 * 12 + 12 * 8 + 8 * 10)
    assert any(s["nonzeros"]["skip"] > 0 for s in arms["skips"]["seeds"]), "skips exist"
    weights = [arms[name]["aggregate"]["weights"] for name in ("skips", "random")]
    assert weights[0]["min"] == weights[1]["max"], "equal size, exactly"


@pytest.mark.slow
def test_seeds_are_paired_and_compared_with_static(finished: Path, arms: dict[str, Any]) -> None:
    rows = read_rows(finished)
    assert len(rows) == 5 * len(cliff.ARMS) * 3 and {row["split"] for row in rows} == {"validation"}
    first = {arm: [r["loss"] for r in rows if r["arm"] == arm and r["epoch"] == 1] for arm in arms}
    # before the first growth all arms of one allocation are the same networks
    assert all(first[arm] == first["static"] for arm in arms if arm != "static-erdos-renyi")
    last = {arm: [r["loss"] for r in rows if r["arm"] == arm and r["epoch"] == 5] for arm in arms}
    assert len({tuple(losses) for losses in last.values()}) >= 7
    static = [s["accuracy"] for s in arms["static"]["seeds"]]
    summary = read_json(finished / "summary.json")
    asked = {(c["first"], c["second"], c["measure"]): c for c in summary["comparisons"]}
    assert len(asked) == 8 + 8 + 7
    for name, arm in arms.items():
        accuracy = [s["accuracy"] for s in arm["seeds"]]
        assert [s["rescued"] for s in arm["seeds"]] == [a >= 0.356 for a in accuracy]
        if name != "static":
            difference = np.subtract(accuracy, static).mean()
            compared = asked[name, "static", "accuracy"]
            assert compared["difference"] == pytest.approx(difference) and compared["verdict"] == "no verdict"
            assert asked[name, "static", "rescued"]["verdict"] == "not judged"
    assert (finished / "accuracy.png").stat().st_size > 0 and (finished / "rescued.png").stat().st_size > 0


def test_interrupted_and_continued_it_ends_the_same(few: Path, tmp_path: Path, xla_cache: Path) -> None:
    out, save, count = tmp_path / "out", stages.save, 0

    def interrupt(*args: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        save(*args)

    with mock.patch.object(stages, "save", interrupt), pytest.raises(KeyboardInterrupt):
        cliff.run(xla_cache, out, **FEW)
    cliff.run(xla_cache, out, **FEW, resume=True)
    assert cliff.same(out) == cliff.same(few)


@pytest.mark.slow
def test_killed_again_and_again_it_ends_the_same(
    finished: Path, tmp_path: Path, xla_cache: Path, run_python: Callable[..., Any]
) -> None:
    moments = [
        ["kill", "half", "metrics.jsonl", 2],
        ["kill", "before", ".train-2", 1],
        ["kill", "after", ".train-4", 1],
        ["kill", "half", "summary.json.partial", 1],
        None,
    ]
    flags = [*cliff.as_flags({}), "--out", str(tmp_path / "out"), "--resume"]
    done = run_python(
        "-m", "tests.experiments.stop_cliff_at", json.dumps(moments), *flags, env=cache_variables(xla_cache)
    )
    assert done.returncode == 0, done.stderr
    codes = [code for code, _ in json.loads(done.stdout)]
    assert codes == [-9, -9, -9, -9, 0], done.stdout
    assert cliff.same(tmp_path / "out") == cliff.same(finished)


@pytest.mark.slow
def test_the_original_protocol_watches_the_test_samples(tmp_path: Path, xla_cache: Path) -> None:
    summary = cliff.run(xla_cache, tmp_path / "out", protocol="seed", arms=("skips", "static"))
    rows = read_rows(tmp_path / "out")
    assert list(summary["arms"]) == ["static", "skips"] and {row["split"] for row in rows} == {"test"}
    for name, arm in summary["arms"].items():
        for s in arm["seeds"]:
            seen = [r["accuracy"] for r in rows if (r["arm"], r["seed"]) == (name, s["seed"])]
            assert s["accuracy"] == pytest.approx(max(seen))


@pytest.mark.slow
def test_the_report_of_several_data_sets(tmp_path: Path, xla_cache: Path) -> None:
    doc = tmp_path / "cliff.md"
    config = cliff_rescue_report.Config(
        datasets=("cliff", "digits"),
        num_seeds=2,
        epochs=6,
        kernel="dense",
        out=str(tmp_path / "out"),
        doc=str(doc),
    )
    with (
        compiling_once(xla_cache),
        mock.patch.object(cliff_rescue, "Config", partial(cliff_rescue.Config, density=0.02)),
    ):
        cliff_rescue_report.CONTROLS.main(config)
    text = doc.read_text()
    assert "## cliff" in text and "## digits" in text and doc.with_suffix(".png").exists()
    for name in cliff.ARMS:
        assert text.count(f"| {name} |") == 3
    numbers = read_json(doc.with_suffix(".json"))
    assert list(numbers["arms"]) == [f"{data}: {arm}" for data in config.datasets for arm in cliff.ARMS]
    corrected = [c["p_holm"] is not None for c in numbers["comparisons"]]
    assert corrected == [c["primary"] for c in numbers["comparisons"]] and sum(corrected) == 2 * 11
    assert "corrected for all 22 questions of this page" in text


WRONG = [
    (["--arms", "skips"], "--arms must name static"),
    (["--arms", "static,skip"], "--arms: unknown arm 'skip': choose from static, "),
    (
        ["--arms", "static,static"],
        "--arms must name static, which the others are compared with, and each arm once",
    ),
    (["--density", "0"], "--density must be above 0 and at most 1: 0.0"),
    (["--density", "0.001"], "leaves the 64x12 layer without any weight: raise the density"),
    (["--grow-fraction", "2"], "--grow-fraction must be above 0 and at most 1: 2.0"),
    (["--target", "35.6"], "--target must be above 0 and below 1: 35.6"),
    (["--num-seeds", "1"], "--num-seeds must be at least 2: 1"),
    (["--grow-every", "0"], "--grow-every must be at least 1: 0"),
    (["--lr", "0"], "--lr must be above 0: 0.0"),
    (
        ["--sizes", "64,12,10"],
        "--sizes needs four or more positive sizes (skip connections need two hidden layers): ",
    ),
    (["--sizes", "784,12,8,10"], "does not fit digits: it has 64 features and 10 classes"),
    (["--dataset", "clif"], "unknown data set 'clif' (did you mean cliff?)"),
    (["--sparsity", "0.1"], "Unknown option: --sparsity"),
    (["--resume", "--overwrite"], "--resume and --overwrite exclude each other"),
]


@pytest.mark.parametrize(("argv", "words"), WRONG, ids=[" ".join(argv) for argv, _ in WRONG])
def test_wrong_input_is_one_line(
    argv: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    base = cliff.as_flags({})
    given = {flag for flag in argv if flag.startswith("--")}
    flags = [x for k in range(0, len(base), 2) if base[k] not in given for x in base[k : k + 2]]
    with pytest.raises(SystemExit) as caught:
        run_main(cliff_rescue.STUDY.main, cliff_rescue.Config, [*flags, *argv, "--out", "out"])
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == ""
    assert err.startswith("error: ") and len(err.splitlines()) == 1 and words in err, err
    assert list(tmp_path.rglob("*")) == [], "nothing is written"


def test_a_report_without_a_folder_to_go_to(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_main(
            cliff_rescue_report.CONTROLS.main, cliff_rescue_report.Config, ["--doc", "nowhere/at/all.md"]
        )
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: --doc: the folder nowhere/at does not exist\n"


def test_networks_that_diverged_are_left_out(few: Path, tmp_path: Path, xla_cache: Path) -> None:
    out, real = tmp_path / "out", cliff_rescue.measure
    shutil.copytree(few, out)
    gone = np.isin(np.arange(9), (0, 5))  # static, seed 0; random, seed 2

    def measure(run: Any, task: Any, arms: Any, state: Any) -> Any:
        return real(run, task, arms, state.replace(diverged=gone))

    with mock.patch.object(cliff_rescue, "measure", measure):
        summary = cliff.run(xla_cache, out, **FEW, resume=True)
    assert summary["diverged"] == [{"arm": "static", "seed": 0}, {"arm": "random", "seed": 2}]
    random, lost = summary["arms"]["random"], summary["arms"]["random"]["seeds"][2]
    assert lost["accuracy"] is lost["rescued"] is None and lost["weights"] == random["seeds"][0]["weights"]
    aggregate = random["aggregate"]
    assert [aggregate[name]["n"] for name in ("accuracy", "rescued", "weights")] == [2, 2, 2]
    compared = {(c["first"], c["second"], c["measure"]): c for c in summary["comparisons"]}
    for name in ("accuracy", "rescued"):
        found = compared["random", "static", name]
        assert (found["n"], found["not_finite"]) == (1, 2)


@pytest.mark.slow
def test_when_all_diverged_there_are_no_numbers(
    skewed: str, tmp_path: Path, xla_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = {"sizes": (32, 8, 6, 5), "activation": "relu", "lr": 1e30, "epochs": 1, "num_seeds": 2}
    summary = cliff.run(xla_cache, tmp_path / "i", dataset=skewed, arms=("static", "random"), **wild)
    assert len(summary["diverged"]) == 4
    assert summary["arms"]["random"]["aggregate"]["accuracy"]["mean"] is None
    assert "static  -           -     0/0      -" in capsys.readouterr().out
    document = dataclasses.replace(
        cliff_rescue_report.CONTROLS,
        run=lambda config: {"data sets": {"i": summary}},
        questions=cliff_rescue.questions(("static", "random"), "i"),
    )
    doc = tmp_path / "doc.md"
    document.main(cliff_rescue_report.Config(datasets=("i",), out=str(tmp_path), doc=str(doc)))
    text = doc.read_text()
    assert shown_nan(text) == [] and "Diverged: 4 of 4 networks (static, seed 0; " in text
