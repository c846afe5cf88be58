"""Networks that diverged: counted and named, in no mean, ranking or comparison; no command fails by them."""

from __future__ import annotations

import doctest
import math
import re
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _cliff_document, _controls_report, _growth_report, _hunt_document, _shown
from experiments import indefinite_growth as growth
from experiments import indefinite_growth_controls as growth_controls
from experiments import patched_density_controls as patched_controls
from experiments._bootstrap_report import draw_scales, draw_search, write_document
from experiments._bootstrap_run import ARMS, BootstrapRun, Result, Stage
from experiments._bootstrap_summary import summarise
from experiments._cliff_run import arm_entry, seed_entry
from experiments._comparisons import compare, comparison_table
from experiments._hunt_halving import best_before, rank_correlation
from experiments._hunt_kept import order
from experiments._hunt_plan import survivors
from experiments._hunt_plots import draw_accuracy, draw_extrema, draw_pareto, pareto_front
from experiments._hunt_replay import _close
from experiments._hunt_report import distribution, groups, selection
from experiments._patched_run import PatchedRun
from experiments._population import load, median_note
from experiments.cliff_rescue_report import Config as CliffReport
from experiments.optimal_bootstrap import Config as BootstrapConfig
from experiments.optimal_bootstrap import print_summary
from experiments.patched_density import table_rows
from experiments.seed_hunt_results import Config as HuntResults
from jaxnet.files import json_safe
from jaxnet.keys import keys_of
from jaxnet.nn.mlp import NetworkSpec
from tests.experiments import cliff
from tests.experiments.hunts import Hunter
from tests.experiments.patched import Finished, Runner, compiling_once, read_json

NAN = math.nan


def shown_nan(text: str) -> list[str]:
    """Lines of a table or document that show what does not exist as NaN or None (a sentence may begin so)."""
    lines = (line for line in text.splitlines() if not line.startswith("python -m"))
    return [line for line in lines if re.search(r"\bnan\b|\bNone\b(?! \w)", line)]


@pytest.fixture(scope="module")
def skewed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """600 samples of 32 features in 5 classes, class 0 about 58 %: a NaN network answers 0 and seems good."""
    draw = np.random.default_rng(0)
    y = np.where(draw.random(600) < 0.55, 0, draw.integers(0, 5, 600))
    x = (draw.normal(size=(5, 32))[y] + draw.normal(size=(600, 32))).astype(np.float32)
    path = tmp_path_factory.mktemp("skewed") / "i.npz"
    np.savez(path, x_train=x[:480], y_train=y[:480], x_test=x[480:], y_test=y[480:])
    return str(path)


def test_how_they_are_shown() -> None:
    assert doctest.testmod(_shown).failed == 0
    assert _shown.diverged_line([], 4) is None
    line = _shown.diverged_line(list(range(20)), 20)
    assert line is not None and "20 of 20 networks (seeds 0, 1, " in line and "and 12 more" in line
    assert median_note(np.array([NAN, 0.5, 0.7])) == "median 0.6000, 1 diverged"
    assert median_note(np.array([NAN])) == "no accuracy, 1 diverged"


def test_pairs_are_left_out_and_counted() -> None:
    arms = {
        name: {"seeds": [{"accuracy": a} for a in values]}
        for name, values in {"a": (0.5, None, 0.9), "b": (0.4, 0.1, 0.7), "c": (None, NAN, None)}.items()
    }
    found, nobody = compare(arms, [("first", "a", "b"), ("second", "a", "c")], "accuracy")
    assert (found.n, found.not_finite, found.wins) == (2, 1, 2) and found.mean == pytest.approx(15)
    assert (nobody.n, nobody.not_finite, nobody.verdict) == (0, 3, "no pair left to compare")
    assert comparison_table([found, nobody])[2:] == [
        "| first | +15.00 | -48.53 .. +78.53 | 2/2 (1 left out) | 0.5 | no difference shown |",
        "| second | - | - | 0/0 (3 left out) | - | no pair left to compare |",
    ]


# --- patched density ----------------------------------------------------------------------------------


def again(base: Finished, patched: Runner, name: str, scaffold: list[bool], state: list[bool]) -> Finished:
    """The finished run summed up once more, as if these networks had diverged before and with patches."""
    shutil.copytree(base.folder, patched.root / name)
    real = PatchedRun.summarise

    def summarise(self: PatchedRun, before: Any, after: Any, found: Any) -> dict[str, Any]:
        before = before.replace(diverged=jnp.asarray(scaffold))
        return real(self, before, after.replace(diverged=jnp.asarray(state)), found)

    with mock.patch.object(PatchedRun, "summarise", summarise):
        return patched(name, resume=True)


def test_a_seed_that_diverged_is_in_no_mean(
    base: Finished, patched: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its best values are finite, those of an earlier epoch: they count all the same as none."""
    found = again(base, patched, "one diverged", [False] * 3, [False, True, False])
    assert "diverged: 1 of 3 networks (seed 1); they are in no mean" in capsys.readouterr().out
    assert found.summary["diverged"] == [1] and [s["diverged"] for s in found.seeds] == [False, True, False]
    before = base.seeds[1]
    lost = found.seeds[1]
    assert lost["scaffold_accuracy"] == before["scaffold_accuracy"], "it diverged with patches only"
    assert lost["patched_accuracy"] is lost["gain"] is None
    assert lost["patches"] and all(p["contribution"] is None for p in lost["patches"])
    kept = [base.seeds[0], base.seeds[2]]
    for name in ("scaffold_accuracy", "patched_accuracy", "gain", "density", "num_patches"):
        numbers = found.summary["aggregate"][name]
        assert (numbers["n"], numbers["not_finite"]) == (2, 1)
        assert numbers["mean"] == pytest.approx(np.mean([s[name] for s in kept]))
    assert found.seeds[0] == base.seeds[0]


def test_when_all_diverged_there_are_no_numbers(
    base: Finished, patched: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = again(base, patched, "all diverged", [True] * 3, [True] * 3)
    summary = found.summary
    assert summary["diverged"] == [0, 1, 2]
    assert all(numbers["mean"] is None and numbers["n"] == 0 for numbers in summary["aggregate"].values())
    assert all(set(row[1:4]) == {"-"} for row in table_rows(summary)[1])
    arms = dict.fromkeys(patched_controls.ARMS, summary)
    headline = dict.fromkeys(patched_controls.HEADLINE, summary)
    comparisons = compare(arms, patched_controls.QUESTIONS, "patched_accuracy")
    _controls_report.write_document(
        tmp_path / "doc.md", patched_controls.Config(), arms, headline, comparisons
    )
    text = (tmp_path / "doc.md").read_text()
    assert shown_nan(text) == [] and f"Diverged: {3 * len(arms)} of {3 * len(arms)} networks (" in text


# --- hunts --------------------------------------------------------------------------------------------


def row(seed: int, accuracy: float, **more: Any) -> dict[str, Any]:
    known = {"architecture": "3-2", "density": 0.1, "stage": "s", "epochs": 1, "split": "validation"}
    measured = dict.fromkeys(("loss", "extrema_score", "dead", "saturated"), 0.5)
    scores = {"patchability": 0.5 * (1 - accuracy), "efficiency": accuracy, "nonzeros": 6}
    told = {"seed": seed, "accuracy": accuracy, "diverged": math.isnan(accuracy)}
    return {**known, **measured, **scores, **told, **more}


def test_a_hunt_ranks_none_that_diverged(tmp_path: Path) -> None:
    rows = [row(s, a) for s, a in enumerate((NAN, 0.3, NAN, 0.7, 0.5, NAN))]
    assert [r["seed"] for r in sorted(rows, key=lambda r: order(r, "accuracy"))] == [3, 4, 1, 0, 2, 5]
    assert [r["seed"] for r in survivors(rows, 2)] == [3, 4, 1]
    assert [r["seed"] for r in survivors(rows, 1)] == [3, 4, 1], "none that diverged, though there is room"
    assert survivors([row(0, NAN)], 2) == []
    assert pareto_front([1, 2, 3, 2, 2, 1], [r["accuracy"] for r in rows]) == [3]
    seen = distribution(rows)
    assert (seen["n"], seen["diverged"], seen["quantiles"]["1"]) == (3, 3, 0.7)
    assert seen["mean"] == pytest.approx(0.5)
    chosen = selection(rows, [{**rows[3], "test_accuracy": 0.6}], (10, 10))
    assert chosen["candidates"] == 3 and chosen["best_minus_mean"] == pytest.approx(0.2)
    (group,) = groups(rows)
    assert (group["accuracy"]["n"], group["loss"]["n"], group["loss"]["not_finite"]) == (3, 3, 3)
    late = [row(s, a) for s, a in ((1, 0.4), (3, 0.9), (4, 0.6))]
    assert rank_correlation(rows, late) == pytest.approx(1)
    assert rank_correlation(rows, [*late[:2], row(4, NAN)]) is None, "two are left"
    assert best_before(rows, late) == {"median_place": 1.0, "worst_place": 1}
    assert best_before(rows, [row(3, NAN)]) is None
    for shown in (rows, rows[:1]):  # some, none
        for draw in (draw_accuracy, draw_extrema, draw_pareto):
            draw(shown, "title", tmp_path / "plot.png")


def test_when_a_whole_hunt_diverged_there_is_no_winner(
    hunter: Hunter, skewed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The case of a large rate: networks of NaN answer class 0, which is right more often than not."""
    flags = {"sizes": (32, 32, 5), "densities": (0.1,), "chunk": None, "kernel": "dense"}
    hunt = hunter("wild", dataset=skewed, num_seeds=4, epochs=1, lr=1e30, **flags)
    rows, summary = hunt.table, hunt.summary
    assert all(r["diverged"] and math.isnan(r["accuracy"]) and math.isnan(r["efficiency"]) for r in rows)
    assert summary["winners"] == [] and summary["ranking"]["overall"]["accuracy"] == []
    assert summary["diverged"] == [f"single/32-32-5/0.1/{s}" for s in range(4)]
    assert (
        summary["distribution"]["overall"]["n"] == 0 and summary["aggregate"][0]["accuracy"]["mean"] is None
    )
    assert (
        sum(line.startswith("diverged: 4 of 4 networks (single/32-32-5/0.1/0; ") for line in hunt.lines) == 1
    )
    assert any("selection: none" in line for line in hunt.lines)
    agreement = _hunt_document.compare([NAN] * 2, [None, 0.5])  # type: ignore[list-item]
    _hunt_document.write_document(
        tmp_path / "doc.md",
        HuntResults(),
        {"many": summary, "portfolio": summary},
        {"many": rows, "portfolio": rows},
        agreement,
    )
    assert shown_nan((tmp_path / "doc.md").read_text()) == []


def test_none_that_diverged_goes_on_to_the_next_rung(hunter: Hunter, skewed: str) -> None:
    """A rate at which some losses leave float32 and others do not."""
    flags = {"sizes": (32, 32, 5), "densities": (0.1,), "chunk": None, "kernel": "dense", "halving": 2}
    hunt = hunter("some", dataset=skewed, num_seeds=8, epochs=2, lr=1e18, **flags)
    first = [r for r in hunt.table if r["epochs"] == 1]
    gone = {r["seed"] for r in first if r["diverged"]}
    assert 0 < len(gone) < 8, "a case that tests something"
    later = [r["seed"] for r in hunt.table if r["epochs"] == 2]
    assert later == sorted(r["seed"] for r in survivors(first, 2)) and not gone & set(later)
    summary = hunt.summary
    ranked = {w["seed"] for w in summary["winners"]}
    assert ranked and not ranked & gone
    assert {name.rsplit("/", 1)[1] for name in summary["diverged"]} >= {str(seed) for seed in gone}
    assert summary["halving"][0]["rungs"][0]["diverged"] == len(gone)


def test_a_replay_of_one_that_diverged_need_not_have_its_numbers() -> None:
    assert _close("loss", math.inf, NAN, diverged=True) and _close("dead", 0.1, 0.9, diverged=True)
    assert not _close("loss", math.inf, NAN, diverged=False) and not _close(
        "accuracy", NAN, 0.5, diverged=False
    )
    assert not _close("nonzeros", 5, 6, diverged=True), "what exists is equal always"


# --- growth -------------------------------------------------------------------------------------------


def test_growth_that_diverged(
    skewed: str, tmp_path: Path, xla_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    config = growth.Config(
        dataset=skewed, sizes=(32, 8, 5), density=0.3, epochs=1, num_seeds=2, lr=1e30, kernel="dense",
        protocol="seed", out=str(tmp_path / "out"),
    )  # fmt: skip
    with compiling_once(xla_cache):
        growth.main(config, lines.append)
    summary = read_json(tmp_path / "out" / "summary.json")
    assert summary["diverged"] == [0, 1]
    for seed in summary["seeds"]:
        assert seed["stop_reason"] == "diverged" and seed["accuracy"] is None
        assert seed["history"][-1]["accuracy"] is None and seed["density"] == (76 + 12) / (32 * 8 + 8 * 5)
    assert all(numbers["mean"] is None for numbers in summary["aggregate"].values())
    assert any("iteration 1: 32-8-5, diverged, extrema" in line for line in lines)
    assert any(line.startswith("diverged: 2 of 2 networks (seeds 0, 1)") for line in lines)
    assert "0 of 2 reached" in capsys.readouterr().out
    arms, headline = (dict.fromkeys(a, summary) for a in (growth_controls.ARMS, growth_controls.HEADLINE))
    asked = compare(arms, growth_controls.QUESTIONS, "accuracy")
    settings = growth_controls.Config(), (32, 8, 5)
    _growth_report.write_document(tmp_path / "doc.md", *settings, arms, headline, asked)
    assert shown_nan((tmp_path / "doc.md").read_text()) == []


# --- cliff --------------------------------------------------------------------------------------------


def test_an_arm_of_the_cliff_leaves_them_out() -> None:
    counts = {"scaffold": 20, "bias": 5, "patch": 0, "skip": 3, "total": 28}
    spec = NetworkSpec((4, 10, 1), 0.4)

    def arm(accuracies: list[float], static: dict[str, Any] | None = None) -> dict[str, Any]:
        seeds = [
            seed_entry(i, {"accuracy": a, "counts": counts, "layers": [15, 5]}, 0.5, spec)
            for i, a in enumerate(accuracies)
        ]
        return {**arm_entry(seeds, static), "seeds": seeds}

    static = arm([0.6, 0.2, NAN, 0.2])
    skips = arm([NAN, 0.9, 0.9, 0.3], static)
    assert [s["rescued"] for s in skips["seeds"]] == [None, True, True, False]
    assert (skips["rescued"]["successes"], skips["rescued"]["n"], skips["weights"]["n"]) == (2, 3, 3)
    assert skips["accuracy"]["mean"] == pytest.approx(0.7)
    against = skips["against_static"]
    assert against["difference"]["mean"] == pytest.approx(0.4) and against["difference"]["n"] == 2
    assert (against["rescued"]["only_a"], against["rescued"]["only_b"], against["rescued"]["n"]) == (1, 0, 2)
    seed = skips["seeds"][1]
    assert (seed["weights"], seed["skip_weights"], seed["density"]) == (23, 3, 20 / 50), "skips apart"
    assert _shown.diverged_in({"skips": skips}) == [{"arm": "skips", "seed": 0}]


def test_a_cliff_that_diverged(
    skewed: str, tmp_path: Path, xla_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = {"sizes": (32, 8, 6, 5), "activation": "relu", "lr": 1e30, "epochs": 1, "num_seeds": 2}
    summary = cliff.run(xla_cache, tmp_path / "out", dataset=skewed, arms=("static", "random"), **wild)
    assert len(summary["diverged"]) == 4 and summary["arms"]["random"]["accuracy"]["mean"] is None
    assert "static  -           -     0/0      -" in capsys.readouterr().out
    report = CliffReport(datasets=("i",), out=str(tmp_path))
    shutil.copytree(tmp_path / "out", tmp_path / "i")
    _cliff_document.write_document(tmp_path / "doc.md", report, {"i": summary})
    text = (tmp_path / "doc.md").read_text()
    assert shown_nan(text) == [] and "Diverged: 4 of 4 networks (static, seed 0; " in text


# --- bootstrap ----------------------------------------------------------------------------------------


def bootstrapped(gone: set[tuple[str, str, int]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A summary of two seeds, of which the networks named diverged, and its rows."""
    config = BootstrapConfig(num_seeds=2, epochs=1)
    stages = (
        Stage("search-64-10", (64, 10), 1),
        Stage("medium", (64, 6, 10), 1, grown=True),
        Stage("fine", (64, 8, 6, 10), 1, grown=True),
    )
    results, rows = {}, []
    for stage in stages:
        names = [(stage.name, arm, seed) for arm in stage.arms or ("",) for seed in range(2)]
        accuracy = np.array([NAN if n in gone else 0.5 + 0.1 * n[2] for n in names], np.float32)
        nonzeros = np.tile(np.arange(1, len(stage.sizes), dtype=np.int32), (len(names), 1))
        epoch = np.ones(len(names), np.int32)
        results[stage.name] = Result(accuracy, accuracy, epoch, nonzeros)  # type: ignore[arg-type]
        # what an epoch before it diverged gave
        rows += [{"phase": p, "arm": a, "seed": s, "epoch": 1, "accuracy": 0.4} for p, a, s in names]
    told = json_safe(summarise(config, stages, results, rows))
    facts = {"dataset": "digits", "data_fingerprint": "x", "device": {"platform": "cpu"}, "time_utc": ""}
    settings = {"threshold": 0.15, "protocol": "clean", "search_epochs": 1}
    return {**told, "config": settings, "kernel": "dense", "provenance": {**facts, "versions": {}}}, rows


@pytest.mark.parametrize("every", [False, True])
def test_bootstrap_leaves_them_out(every: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = {("medium", "random", 1), ("search-64-10", "", 0)}
    if every:
        arms = [("search-64-10", ""), *((scale, arm) for scale in ("medium", "fine") for arm in ARMS)]
        gone = {(stage, arm, seed) for stage, arm in arms for seed in range(2)}
    summary, rows = bootstrapped(gone)
    assert {(d["stage"], d["arm"], d["seed"]) for d in summary["diverged"]} == gone
    arm, (searched,) = summary["scales"]["medium"]["arms"]["random"], summary["architectures"]
    left = 0 if every else 1
    assert (arm["accuracy"]["n"], arm["weights"]["n"], arm["after"]["after epoch 1"]["n"]) == (left,) * 3
    assert (searched["learns"], searched["n"]) == (left, left)
    pairs = [
        c for c in summary["comparisons"] if c["scale"] == "medium" and "random" in (c["first"], c["second"])
    ]
    assert pairs and all(c["n"] == left for c in pairs)
    print_summary(summary)
    draw_search(summary, tmp_path / "search.png")
    draw_scales(summary, rows, tmp_path / "scales.png")
    config = BootstrapConfig(num_seeds=2, epochs=1)
    write_document(tmp_path / "doc.md", config, summary, rows)
    assert shown_nan((tmp_path / "doc.md").read_text() + capsys.readouterr().out) == []


def test_what_is_built_from_a_diverged_network_has_diverged(tmp_path: Path) -> None:
    config = BootstrapConfig(hidden=(), widths=(6, 8), density=0.1, num_seeds=2, kernel="dense")
    run = BootstrapRun(config, None, load(config))  # type: ignore[arg-type]  # nothing is written
    at = {stage.name: number for number, stage in enumerate(run.stages)}
    seed = jax.jit(run.start(at["seed"]))(keys_of(range(2)))
    small = run.first_arm(jax.device_get(seed.replace(diverged=jnp.array([False, True]))))
    state = jax.eval_shape(run.start(at["medium"]), keys_of(range(2)), *small)
    assert state.diverged.shape == (2 * len(ARMS),)
    grown = jax.jit(lambda *args: run.start(at["medium"])(*args).diverged)(keys_of(range(2)), *small)
    inherited = dict(zip(ARMS, np.asarray(grown).reshape(-1, 2).tolist(), strict=True))
    assert inherited.pop("random, unequal") == [False, False], "it takes nothing from the smaller network"
    assert all(found == [False, True] for found in inherited.values())
