"""``optimal_bootstrap`` at a small size on the digits: results, kill and resume, wrong input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments._bootstrap_run import ARMS, Result, Stage
from experiments._bootstrap_summary import QUESTIONS, summarise
from experiments._cli import run_main
from experiments.optimal_bootstrap import Config, main
from jaxnet.kernels import PRODUCTS
from jaxnet.masks import allocate
from jaxnet.statistics import paired_difference
from tests.experiments.patched import (
    arrays,
    cache_variables,
    compiling_once,
    contents,
    read_json,
    read_rows,
)

SMALL: dict[str, Any] = {
    "hidden": (),
    "widths": (6, 12),
    "density": 0.1,
    "num_seeds": 2,
    "search_epochs": 2,
    "epochs": 2,
    # not auto: what is measured as the fastest may change, and the last bits with it
    "kernel": "csr" if "csr" in PRODUCTS else "dense",
}


def as_flags(changes: dict[str, Any]) -> list[str]:
    flags = []
    for name, value in {**SMALL, **changes}.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        flags += [f"--{name.replace('_', '-')}", text]
    return flags


def results(folder: Path) -> dict[str, Any]:
    """Everything that must be the same, bit for bit, whenever and wherever the run is done."""
    summary = read_json(folder / "summary.json")
    return {
        "rows": (folder / "metrics.jsonl").read_bytes(),
        "arrays": {path: array.tobytes() for path, array in arrays(folder).items()},
        **{name: summary[name] for name in ("architectures", "smallest", "scales", "comparisons", "seeds")},
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, xla_cache: Path) -> Path:
    """The folder of the small run, the document beside it."""
    folder = tmp_path_factory.mktemp("bootstrap")
    config = Config(**SMALL, out=str(folder / "run"), doc=str(folder / "doc.md"))
    with compiling_once(xla_cache):
        main(config, lambda line: None)
    return folder / "run"


@pytest.mark.slow
def test_arms_have_equal_sizes_and_the_summary_follows_from_the_rows(finished: Path) -> None:
    summary, rows = read_json(finished / "summary.json"), read_rows(finished)
    assert {p.name for p in finished.iterdir()} >= {"search.png", "bootstrap.png", "provenance.json"}
    sizes = {"medium": (64, 6, 10), "fine": (64, 12, 6, 10)}
    for seed in summary["seeds"]:
        for scale, arms in seed["scales"].items():
            if scale == "seed":
                continue
            assert list(arms) == list(ARMS)
            counts = {arm: tuple(values["nonzeros"]) for arm, values in arms.items()}
            plain = allocate(sizes[scale], SMALL["density"])
            unequal = counts.pop("random, unequal")
            assert len(set(counts.values())) == 1, "every layer has as many weights in every arm"
            assert unequal == plain and all(
                a > b for a, b in zip(counts["random"][:2], plain[:2], strict=True)
            )
            for arm, values in arms.items():
                mine = [
                    row["accuracy"]
                    for row in rows
                    if (row["phase"], row.get("arm"), row["seed"]) == (scale, arm, seed["seed"])
                ]
                assert len(mine) == SMALL["epochs"]
                assert [values["watched"][f"after epoch {e}"] for e in (1, 2)] == mine
                assert values["epoch"] == 1 + int(np.argmax(mine))
        best = max(row["accuracy"] for row in rows if row["phase"] == "search-64-10" and _is(row, seed))
        assert seed["searched"] == {"64-10": best}
        assert seed["smallest"] == ([64, 10] if best > 0.15 else None)
    for c in summary["comparisons"]:
        assert (c["first"], c["second"]) in QUESTIONS
        if c["measure"] == "test accuracy":
            a, b = (
                [s["scales"][c["scale"]][c[side]]["accuracy"] for s in summary["seeds"]]
                for side in ("first", "second")
            )
            expected = paired_difference(a, b)
            assert {name: c[name] for name in expected} == expected


def _is(row: dict[str, Any], seed: dict[str, Any]) -> bool:
    return bool(row["seed"] == seed["seed"])


@pytest.mark.slow
def test_the_document_names_its_command_and_its_numbers(finished: Path) -> None:
    text, summary = (finished.parent / "doc.md").read_text(), read_json(finished / "summary.json")
    command = next(line for line in text.splitlines() if line.startswith("python -m"))
    for flag in ("--num-seeds 2", "--widths 6,12", "--density 0.1", "--epochs 2"):
        assert flag in command
    assert (finished.parent / "doc.png").stat().st_size > 0
    for scale in ("medium", "fine"):
        for values in summary["scales"][scale]["arms"].values():
            assert f"{100 * values['accuracy']['mean']:.2f} (" in text


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_bit_for_bit_the_same(
    finished: Path, tmp_path: Path, xla_cache: Path, run_python: Callable[..., Any]
) -> None:
    plan: list[Any] = [
        ["kill", "half", "metrics.jsonl", 3],  # the second stage's first rows
        ["kill", "after", "medium-1", 1],  # in the middle of a scale
        ["kill", "after", "medium-2", 1],  # between the scales
        None,
    ]
    out = tmp_path / "out"
    flags = [*as_flags({"out": out}), "--resume"]
    done = run_python(
        "-m",
        "tests.experiments.stop_bootstrap_at",
        json.dumps(plan),
        *flags,
        env=cache_variables(xla_cache),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert [code for code, _ in json.loads(done.stdout)] == [-9, -9, -9, 0], done.stdout
    assert results(out) == results(finished)


def test_the_search_and_the_differences_by_hand() -> None:
    """Three seeds: one learns in both architectures, one in the larger only, one in none."""

    def result(watched: list[float], nonzeros: list[int], arms: int = 1) -> Result:
        accuracy = np.array(watched * arms, np.float32)
        layers = np.tile(np.array(nonzeros, np.int32), (3 * arms, 1))
        return Result(accuracy, accuracy, np.ones(3 * arms, np.int32), layers)  # type: ignore[arg-type]

    stages = (
        Stage("search-64-8-10", (64, 8, 10), 1),
        Stage("search-64-10", (64, 10), 1),
        Stage("medium", (64, 6, 10), 1, grown=True),
    )
    results = {
        "search-64-8-10": result([0.5, 0.2, 0.15], [51, 8]),
        "search-64-10": result([0.3, 0.1, 0.1], [64]),
        "medium": result([0.5, 0.5, 0.5], [80, 9], len(ARMS)),
    }
    arms = {arm: 0.1 * k for k, arm in enumerate(ARMS)}
    results["medium"] = results["medium"].replace(accuracy=np.repeat(list(arms.values()), 3))
    rows = [
        {"phase": "medium", "arm": arm, "seed": seed, "epoch": 1, "accuracy": 0.25 * seed}
        for arm in ARMS
        for seed in range(3)
    ]
    rows += [
        {"phase": stage.name, "seed": seed, "epoch": 1, "accuracy": 0.5}
        for stage in stages[:2]
        for seed in range(3)
    ]
    summary = summarise(Config(num_seeds=3, epochs=1), stages, results, rows)
    # 51 + 8 weights are fewer than 64; exactly 15 % is not above 15 %
    assert [a["learns"] for a in summary["architectures"]] == [2, 1]
    assert [a["smallest"] for a in summary["architectures"]] == [2, 0]
    assert summary["smallest"] == [64, 8, 10]
    assert [s["smallest"] for s in summary["seeds"]] == [[64, 8, 10], [64, 8, 10], None]
    for c in summary["comparisons"]:
        expected = arms[c["first"]] - arms[c["second"]] if c["measure"] == "test accuracy" else 0.0
        assert c["mean"] == pytest.approx(expected) and c["n"] == 3


WRONG = [
    (["--widths", "32,0"], "--widths must be positive sizes: 32,0"),
    (["--widths", "32"], "is not 2 values with commas between"),
    (["--hidden", "16,0"], "--hidden must be positive sizes: 16,0"),
    (["--hidden", "16,16"], "--hidden names a size twice: 16,16"),
    (["--density", "0"], "--density must be above 0 and at most 1: 0.0"),
    (["--density", "0.001"], "64-64-10: density 0.001 leaves the 64x10 layer without any weight"),
    (["--threshold", "1"], "--threshold must be at least 0 and below 1: 1.0"),
    (["--lr", "0"], "--lr must be above 0: 0.0"),
    (["--num-seeds", "0"], "--num-seeds must be at least 1: 0"),
    (["--epochs", "0"], "--epochs must be at least 1: 0"),
    (["--search-epochs", "0"], "--search-epochs must be at least 1: 0"),
    (["--seed", str(2**32)], "seeds must be below 2**32"),
    (["--doc", "nowhere/doc.md"], "--doc: the folder nowhere does not exist"),
    (["--doc", "doc.md", "--num-seeds", "1"], "--doc needs at least 2 seeds"),
    (["--resume", "--overwrite"], "exclude each other"),
    (["--kernel", "fast"], "'fast' is not one of auto, dense, csr"),
    (["--sparsity", "0.02"], "unknown flag --sparsity"),
    (["--dataset", "digit"], "unknown data set 'digit' (did you mean digits?)"),
]


def error_line(capsys: pytest.CaptureFixture[str], argv: list[str], cache: Path) -> str:
    with compiling_once(cache), pytest.raises(SystemExit) as caught:
        run_main(main, Config, argv)
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == ""
    assert err.startswith("error: ") and err.endswith("\n") and len(err.splitlines()) == 1, err
    return err


@pytest.mark.parametrize(("argv", "words"), WRONG, ids=[" ".join(argv) for argv, _ in WRONG])
def test_wrong_input_is_one_line(
    argv: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    xla_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in error_line(capsys, [*argv, "--out", "out"], xla_cache)
    assert list(tmp_path.iterdir()) == [], "nothing is written, not even the folder"


@pytest.mark.slow
def test_a_checkpoint_of_another_architecture(
    finished: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, xla_cache: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    config = read_json(copy / "config.json")
    config["widths"] = [6, 8]
    (copy / "config.json").write_text(json.dumps(config))
    before = contents(copy)
    line = error_line(capsys, [*as_flags({"widths": (6, 8), "out": copy}), "--resume"], xla_cache)
    assert str(copy) in line and "fine-2" in line
    assert contents(copy) == before
    line = error_line(capsys, [*as_flags({"out": copy}), "--resume"], xla_cache)
    assert "widths was [6, 8] and is now [6, 12]" in line
    assert contents(copy) == before


@pytest.mark.slow
def test_protocol_seed_watches_the_test_set(tmp_path: Path, xla_cache: Path) -> None:
    out = tmp_path / "out"
    with compiling_once(xla_cache):
        changes = {**SMALL, "hidden": (4,)}
        summary = main(Config(**changes, protocol="seed", out=str(out)), lambda line: None)
    rows = read_rows(out)
    assert {row["split"] for row in rows} == {"test"}
    assert [a["sizes"] for a in summary["architectures"]] == [[64, 4, 10], [64, 10]]
    for seed in summary["seeds"]:
        for arm, values in seed["scales"]["fine"].items():
            mine = [
                r["accuracy"]
                for r in rows
                if (r["phase"], r.get("arm"), r["seed"]) == ("fine", arm, seed["seed"])
            ]
            assert values["accuracy"] == max(mine), "the best of all test readings, as in the original"
