"""Hunts whose networks diverged: counted and named, in no mean or ranking; no command fails by them."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from experiments import seed_hunt_results
from experiments._hunt_report import draw_rows
from jaxnet.sweep.halving import place_of_best, rank_correlation, rung, surviving
from jaxnet.sweep.pictures import PLOTS
from jaxnet.sweep.replayed import close
from jaxnet.sweep.selection import aggregates, distribution, pareto_front, selection
from jaxnet.sweep.table import ranked
from tests.experiments.hunts import Hunter, as_table, row

NAN = math.nan


def test_a_hunt_ranks_none_that_diverged(tmp_path: Path) -> None:
    rows = as_table([row(s, a) for s, a in enumerate((NAN, 0.3, NAN, 0.7, 0.5, NAN))])
    assert ranked(rows, "accuracy", 9, 0.0)["seed"].to_pylist() == [3, 4, 1]
    assert surviving(rows, 2).tolist() == [3, 4, 1]
    assert surviving(rows, 1).tolist() == [3, 4, 1], "none that diverged, though there is room"
    assert surviving(as_table([row(0, NAN)]), 2).tolist() == []
    assert pareto_front(np.array([1, 2, 3, 2, 2, 1]), rows["accuracy"].to_numpy()).tolist() == [3]
    seen = distribution(rows)
    assert (seen["n"], seen["diverged"], seen["quantiles"]["1"]) == (3, 3, 0.7)
    assert seen["mean"] == pytest.approx(0.5)
    chosen = selection(rows, [{"accuracy": 0.7, "test_accuracy": 0.6}], (10, 10))
    assert chosen["candidates"] == 3 and chosen["best_minus_mean"] == pytest.approx(0.2)
    (group,) = aggregates(rows, "stage", "architecture")
    assert (group["accuracy"]["n"], group["loss"]["n"], group["loss"]["not_finite"]) == (3, 3, 3)
    late = [row(s, a) for s, a in ((1, 0.4), (3, 0.9), (4, 0.6))]
    assert rank_correlation(rung(rows), rung(as_table(late))) == pytest.approx(1)
    assert rank_correlation(rung(rows), rung(as_table([*late[:2], row(4, NAN)]))) is None, "two are left"
    assert place_of_best(rung(rows), rung(as_table(late))) == {"median_place": 1.0, "worst_place": 1}
    assert place_of_best(rung(rows), rung(as_table([row(3, NAN)]))) is None
    for shown in (rows, rows.slice(0, 1)):  # some, none
        for name in PLOTS:
            draw_rows(tmp_path / f"{name}.png", shown, "title")


def test_when_a_whole_hunt_diverged_there_is_no_winner(hunter: Hunter, skewed: str) -> None:
    """The case of a large rate: networks of NaN answer class 0, which is right more often than not."""
    flags = {"sizes": (32, 32, 5), "densities": (0.1,), "chunk": None, "kernel": "dense"}
    hunt = hunter("wild", dataset=skewed, num_seeds=4, epochs=1, lr=1e30, **flags)
    rows, summary = hunt.table, hunt.summary
    assert all(r["diverged"] and math.isnan(r["accuracy"]) and math.isnan(r["efficiency"]) for r in rows)
    assert summary["winners"] == [] and summary["ranking"]["overall"]["accuracy"] == []
    assert summary["diverged"] == [f"single/32-32-5/0.1/{s}" for s in range(4)]
    assert summary["distribution"]["overall"]["n"] == 0
    assert summary["aggregate"][0]["accuracy"]["mean"] is None
    told = [
        line for line in hunt.lines if line.startswith("diverged: 4 of 4 networks (single/32-32-5/0.1/0; ")
    ]
    assert len(told) == 1 and any("selection: none" in line for line in hunt.lines)


@pytest.mark.slow
def test_none_that_diverged_goes_on_to_the_next_rung(hunter: Hunter, skewed: str) -> None:
    """A rate at which some losses leave float32 and others do not."""
    flags = {"sizes": (32, 32, 5), "densities": (0.1,), "chunk": None, "kernel": "dense", "halving": 2}
    hunt = hunter("some", dataset=skewed, num_seeds=8, epochs=2, lr=1e18, **flags)
    first = [r for r in hunt.table if r["epochs"] == 1]
    gone = {r["seed"] for r in first if r["diverged"]}
    assert 0 < len(gone) < 8, "a case that tests something"
    later = [r["seed"] for r in hunt.table if r["epochs"] == 2]
    best = as_table(first).take(surviving(as_table(first), 2))
    assert later == sorted(best["seed"].to_pylist()) and not gone & set(later)
    summary = hunt.summary
    ranked = {w["seed"] for w in summary["winners"]}
    assert ranked and not ranked & gone
    assert {name.rsplit("/", 1)[1] for name in summary["diverged"]} >= {str(seed) for seed in gone}
    assert summary["halving"][0]["rungs"][0]["diverged"] == len(gone)


def test_a_replay_of_one_that_diverged_need_not_have_its_numbers() -> None:
    assert close("loss", math.inf, NAN, diverged=True) and close("dead", 0.1, 0.9, diverged=True)
    assert not close("loss", math.inf, NAN, diverged=False)
    assert not close("accuracy", NAN, 0.5, diverged=False)
    assert not close("nonzeros", 5, 6, diverged=True), "what exists is equal always"


@pytest.mark.slow
def test_a_document_of_hunts_that_diverged(
    skewed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every network of the portfolio, at a rate beyond all bounds; and one of the reference alone."""
    hunted = seed_hunt_results.hunt_config

    def wild(config: seed_hunt_results.Config, name: str) -> object:
        import dataclasses

        return dataclasses.replace(hunted(config, name), lr=1e30, densities=(0.5,))

    monkeypatch.setattr(seed_hunt_results, "hunt_config", wild)
    seed_hunt_results.RESULTS.main(
        seed_hunt_results.Config(
            dataset=skewed,
            num_seeds=3,
            portfolio_seeds=1,
            reference_seeds=2,
            epochs=1,
            kernel="dense",
            out=str(tmp_path / "out"),
            doc=str(tmp_path / "doc.md"),
        )
    )
    text = (tmp_path / "doc.md").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("python -m")]
    assert [line for line in lines if re.search(r"\bnan\b|\bNone\b(?! \w)", line)] == []
    assert "Diverged: 3 of 3 networks" in text
    assert seed_hunt_results.compare([NAN] * 2, [None, 0.5])["n"] == 0
