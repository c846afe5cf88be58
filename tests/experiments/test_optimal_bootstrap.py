"""``optimal_bootstrap`` at a small size on the digits: results, kill and resume, wrong input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments._bootstrap_found import MEAN, elected, numbers, summarise
from experiments.optimal_bootstrap import (
    ARMS,
    PAIRS,
    STUDY,
    Config,
    Scale,
    make_scales,
    make_stage,
    questions,
)
from jaxnet import lab
from jaxnet.allocation import allocate
from jaxnet.files import json_safe
from jaxnet.kernels import PRODUCTS
from jaxnet.lab import run_main
from jaxnet.lab.run import load
from jaxnet.lab.summary import arm_summary
from jaxnet.lab.summary import summarise as summarise_arms
from jaxnet.statistics import paired_difference
from tests.experiments.patched import (
    arrays,
    cache_variables,
    compiling_once,
    contents,
    read_json,
    read_rows,
    shown_nan,
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
        **{name: summary[name] for name in ("arms", "architectures", "smallest", "scales", "comparisons")},
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, xla_cache: Path) -> Path:
    """The folder of the small run, the document beside it."""
    folder = tmp_path_factory.mktemp("bootstrap")
    config = Config(**SMALL, out=str(folder / "run"), doc=str(folder / "doc.md"))
    with compiling_once(xla_cache):
        STUDY.main(config, lambda line: None)
    return folder / "run"


@pytest.mark.slow
def test_arms_have_equal_sizes_and_the_summary_follows_from_the_rows(finished: Path) -> None:
    summary, rows = read_json(finished / "summary.json"), read_rows(finished)
    assert {p.name for p in finished.iterdir()} >= {"search.png", "bootstrap.png", "provenance.json"}
    sizes = {"medium": (64, 6, 10), "fine": (64, 12, 6, 10)}
    for i in range(SMALL["num_seeds"]):
        for scale in ("medium", "fine"):
            arms = {arm: summary["arms"][f"{scale}: {arm}"]["seeds"][i] for arm in ARMS}
            counts = {arm: tuple(values["nonzeros"]) for arm, values in arms.items()}
            plain = allocate(sizes[scale], SMALL["density"])
            unequal = counts.pop("random, unequal")
            assert len(set(counts.values())) == 1, "every layer has as many weights in every arm"
            assert unequal == plain and all(
                a > b for a, b in zip(counts["random"][:2], plain[:2], strict=True)
            )
            for arm, values in arms.items():
                mine = curve(rows, scale, arm, i)
                assert len(mine) == SMALL["epochs"]
                assert [values["after"][str(e)] for e in (1, 2)] == mine
                assert values["epoch"] == 1 + int(np.argmax(mine))
                assert values["accuracy"] == pytest.approx(np.mean(values["accuracy_halves"]), abs=1 / 360)
        best = max(curve(rows, "search-64-10", None, i))
        seed = summary["seeds"][i]
        assert seed["searched"] == {"64-10": best}
        assert seed["smallest"] == ([64, 10] if best > 0.15 else None)
    for c in summary["comparisons"]:
        first, second = (c[side].removeprefix(f"{c['where']}: ") for side in ("first", "second"))
        assert (first, second) in PAIRS and c["verdict"] in ("no verdict", "not judged"), "two seeds"
        if c["measure"] == "accuracy":
            a, b = (
                [s["accuracy"] for s in summary["arms"][c[side]]["seeds"]] for side in ("first", "second")
            )
            expected = paired_difference(a, b)
            assert (c["difference"], c["p"], c["n"]) == (expected["mean"], expected["p"], expected["n"])


def curve(rows: list[dict[str, Any]], stage: str, arm: str | None, seed: int) -> list[float]:
    """Accuracy of a network over its epochs."""
    return [r["accuracy"] for r in rows if (r["phase"], r.get("arm"), r["seed"]) == (stage, arm, seed)]


@pytest.mark.slow
def test_the_document_names_its_command_and_its_numbers(finished: Path) -> None:
    text, summary = (finished.parent / "doc.md").read_text(), read_json(finished / "summary.json")
    command = next(line for line in text.splitlines() if line.startswith("python -m"))
    for flag in ("--num-seeds 2", "--widths 6,12", "--density 0.1", "--epochs 2"):
        assert flag in command
    assert (finished.parent / "doc.png").stat().st_size > 0
    for scale in ("medium", "fine"):
        for arm in ARMS:
            accuracy = summary["arms"][f"{scale}: {arm}"]["aggregate"]["accuracy"]
            assert f"{100 * accuracy['mean']:.2f} (" in text
    beside = read_json(finished.parent / "doc.json")
    assert beside["comparisons"] == summary["comparisons"] and set(beside["arms"]) >= {"medium: random"}


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

    def entries(watched: list[float], weights: int) -> list[dict[str, Any]]:
        return [{"seed": i, "watched": w, "accuracy": w, "weights": weights} for i, w in enumerate(watched)]

    scales = (
        Scale("search-64-8-10", (64, 8, 10), 1),
        Scale("search-64-10", (64, 10), 1),
        Scale("medium", (64, 6, 10), 1, grown=True),
    )
    arms = {
        "search-64-8-10": entries([0.5, 0.2, 0.15], 59),
        "search-64-10": entries([0.3, 0.1, 0.1], 64),
    }
    summary = summarise(Config(num_seeds=3, epochs=1), scales, arms)
    # 51 + 8 weights are fewer than 64; exactly 15 % is not above 15 %
    assert [a["learns"] for a in summary["architectures"]] == [2, 1]
    assert [a["smallest"] for a in summary["architectures"]] == [2, 0]
    assert summary["smallest"] == [64, 8, 10]
    assert [s["smallest"] for s in summary["seeds"]] == [[64, 8, 10], [64, 8, 10], None]
    assert summary["scales"] == {"medium": {"sizes": [64, 6, 10], "arms": list(ARMS)}}


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
    (["--sparsity", "0.02"], "Unknown option: --sparsity"),
    (["--dataset", "digit"], "unknown data set 'digit' (did you mean digits?)"),
]


def error_line(capsys: pytest.CaptureFixture[str], argv: list[str], cache: Path) -> str:
    with compiling_once(cache), pytest.raises(SystemExit) as caught:
        run_main(STUDY.main, Config, argv)
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
        summary = STUDY.main(Config(**changes, protocol="seed", out=str(out)), lambda line: None)
    rows = read_rows(out)
    assert {row["split"] for row in rows} == {"test"}
    assert [a["sizes"] for a in summary["architectures"]] == [[64, 4, 10], [64, 10]]
    for arm in ARMS:
        for entry in summary["arms"][f"fine: {arm}"]["seeds"]:
            best = max(curve(rows, "fine", arm, entry["seed"]))
            assert entry["accuracy"] == pytest.approx(best, abs=1e-6), "the best of all test readings"


def told(gone: set[tuple[str, int]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A summary of two seeds, of which the networks named diverged, and its rows."""
    config = Config(num_seeds=2, epochs=1)
    scales = (
        Scale("search-64-10", (64, 10), 1),
        Scale("medium", (64, 6, 10), 1, grown=True),
        Scale("fine", (64, 8, 6, 10), 1, grown=True),
    )
    arms, rows = {}, []
    for scale in scales:
        for arm in scale.arms or ("",):
            name = f"{scale.name}: {arm}" if arm else scale.name
            lost = [(name, seed) in gone for seed in range(2)]
            arms[name] = [
                {
                    "seed": seed,
                    "diverged": lost[seed],
                    "accuracy": np.nan if lost[seed] else 0.5 + 0.1 * seed,
                    "watched": np.nan if lost[seed] else 0.5 + 0.1 * seed,
                    "epoch": 1,
                    "weights": 3,
                    "nonzeros": list(range(1, len(scale.sizes))),
                    MEAN: 0.4,
                    "after": {"1": 0.4},
                }
                for seed in range(2)
            ]
            # what an epoch before it diverged gave
            rows += [
                {"phase": scale.name, "arm": arm, "seed": s, "epoch": 1, "accuracy": 0.4} for s in range(2)
            ]
    summaries = {name: arm_summary(seeds, numbers) for name, seeds in arms.items()}
    answers = lab.compare(summaries, questions(config))
    facts = {"dataset": "digits", "data_fingerprint": "x", "device": {"platform": "cpu"}, "time_utc": ""}
    settings = {"threshold": 0.15, "protocol": "clean", "search_epochs": 1}
    extra = {"kernel": "dense", **summarise(config, scales, arms)}
    known, timing = {**facts, "versions": {}}, {"compile_seconds": 0.0, "run_seconds": 0.0}
    head = {"experiment": "optimal_bootstrap", "config": settings, "provenance": known, "timing": timing}
    whole = {**head, **summarise_arms(summaries, answers), **extra}
    return {**json_safe(whole), "answers": answers}, rows


@pytest.mark.parametrize("every", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_those_that_diverged_are_left_out(every: bool, tmp_path: Path) -> None:
    gone = {("medium: random", 1), ("search-64-10", 0)}
    if every:
        names = ["search-64-10", *(f"{scale}: {arm}" for scale in ("medium", "fine") for arm in ARMS)]
        gone = {(name, seed) for name in names for seed in range(2)}
    summary, rows = told(gone)
    answers = summary.pop("answers")
    assert {(d["arm"], d["seed"]) for d in summary["diverged"]} == gone
    arm, (searched,) = summary["arms"]["medium: random"]["aggregate"], summary["architectures"]
    left = 0 if every else 1
    assert (arm["accuracy"]["n"], arm["weights"]["n"], arm["after.1"]["n"]) == (left,) * 3
    assert (searched["learns"], searched["n"]) == (left, left)
    pairs = [c for c in summary["comparisons"] if "medium: random" in (c["first"], c["second"])]
    assert pairs and all(c["n"] == left for c in pairs)
    shown = str([[row[1:] for row in rows] for _, _, rows in STUDY.tables(summary)])
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, draw in STUDY.plots.items():
        draw(tmp_path / name, summary, rows)
    config = Config(num_seeds=2, epochs=1, out=str(tmp_path), doc=str(tmp_path / "doc.md"))
    assert STUDY.document is not None
    STUDY.write(config, {"run": {"": summary}}, answers)
    assert shown_nan((tmp_path / "doc.md").read_text() + shown) == []


def test_what_is_built_from_a_diverged_network_has_diverged() -> None:
    config = Config(hidden=(), widths=(6, 8), density=0.1, num_seeds=2, kernel="dense")
    run = lab.Run(config, load(config), None)  # type: ignore[arg-type]  # nothing is written
    scales = make_scales(config, run.dataset)
    stages = {scale.name: make_stage(run, scale, number) for number, scale in enumerate(scales)}
    seed = jax.jit(stages["seed"].starts)(run.keys, None)
    seed = seed.replace(diverged=jnp.array([False, True]))
    small = seed.best_params, seed.net.structure, seed.diverged
    grown = jax.jit(lambda *args: stages["medium"].starts(*args).diverged)(run.keys, small)
    inherited = dict(zip(ARMS, np.asarray(grown).reshape(-1, 2).tolist(), strict=True))
    assert inherited.pop("random, unequal") == [False, False], "it takes nothing from the smaller network"
    assert all(found == [False, True] for found in inherited.values())


def test_what_is_grown_is_what_most_seeds_find(tmp_path: Path) -> None:
    found = np.array([[0.5, 0.5, 0.1], [0.4, 0.3, 0.1], [0.1, 0.2, 0.1]])  # (architecture, seed)
    learns, best, votes = elected(found, np.array([30, 20, 10])[:, None], 0.15)
    assert best[:2].tolist() == [1, 2] and votes == [0, 1, 1] and not learns[:, 2].any()
    data: Any = SimpleNamespace(num_features=64, num_classes=10)
    scales = make_scales(Config(hidden=(8,), widths=(6, 12)), data, (64, 8, 10))
    assert [s.sizes for s in scales[-3:]] == [(64, 8, 10), (64, 6, 8, 10), (64, 12, 6, 8, 10)]
