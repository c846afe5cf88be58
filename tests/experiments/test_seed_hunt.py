"""``experiments.seed_hunt``: rows, ranking, winners, replay, and hunts that are killed and continued."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pytest

import jaxnet
from experiments import seed_hunt
from experiments._hunt_rows import table_of
from experiments.seed_hunt import ReplayConfig, command, replay_main
from jaxnet import data, files, lab
from jaxnet.allocation import allocate
from jaxnet.errors import InputError
from jaxnet.sweep import load_winner, to_scipy
from jaxnet.sweep.hunt import PLAN
from jaxnet.topology import Topology, validate_topology
from tests.experiments.hunts import SMALL, Hunted, Hunter, as_flags
from tests.experiments.patched import compiling_once

CRITERIA = ("accuracy", "patchability", "efficiency")


def test_a_row_for_every_network_with_exact_counts(hunted: Hunted) -> None:
    rows = hunted.table
    assert len(rows) == 14
    assert {(r["seed"], r["density"]) for r in rows} == {(s, d) for s in range(7) for d in (0.1, 0.3)}
    for row in rows:
        counts = allocate((64, 24, 10), row["density"])
        assert row["nonzeros"] == sum(counts) == {0.1: 153 + 24, 0.3: 460 + 72}[row["density"]]
        assert (row["hidden"], row["biases"], row["epochs"]) == (24, 34, 2)
        assert (row["architecture"], row["stage"]) == ("64-24-10", "single")
        assert (row["mask"], row["split"]) == ("uniform", "validation")
        assert row["accuracy"] * 240 == pytest.approx(round(row["accuracy"] * 240), abs=1e-9)
        assert row["dead"] * 24 == pytest.approx(round(row["dead"] * 24), abs=1e-9)
        score = (row["high"] + row["low"]) / 24
        assert row["extrema_score"] == score
        assert (row["high_by_layer"], row["low_by_layer"]) == ([row["high"]], [row["low"]])
        assert row["patchability"] == score * (1 - row["accuracy"])
        assert row["efficiency"] == 1000 * row["accuracy"] / row["nonzeros"]
        assert 0 < row["loss"] < 3
    assert max(r["accuracy"] for r in rows) > 0.5, "they learn"


def test_ranking_is_that_of_the_table(hunted: Hunted) -> None:
    ranking = hunted.summary["ranking"]
    scopes = [(hunted.table, ranking["overall"])]
    for scope in ranking["by_density"]:
        scopes.append(([r for r in hunted.table if r["density"] == scope["density"]], scope))
    assert len(scopes) == 3
    for rows, found in scopes:
        for criterion in CRITERIA:
            ranked = [r for r in rows if criterion == "accuracy" or r["accuracy"] >= 0.15]
            ranked = sorted(ranked, key=lambda r: (-r[criterion], r["seed"]))[:2]
            assert [{k: e[k] for k in ranked[0]} for e in found[criterion]] == ranked


def test_distribution_and_selection_are_those_of_the_table(hunted: Hunted) -> None:
    accuracy = np.array([r["accuracy"] for r in hunted.table])
    summary = hunted.summary
    all_, chosen = summary["distribution"]["overall"], summary["selection"]["overall"]
    assert all_["n"] == chosen["candidates"] == 14
    assert all_["mean"] == pytest.approx(accuracy.mean())
    assert all_["quantiles"]["0.5"] == pytest.approx(np.median(accuracy))
    assert (all_["quantiles"]["0"], all_["quantiles"]["1"]) == (accuracy.min(), accuracy.max())
    best = summary["ranking"]["overall"]["accuracy"][0]
    assert chosen["best_accuracy"] == best["accuracy"] == accuracy.max()
    assert chosen["best_minus_mean"] == pytest.approx(accuracy.max() - accuracy.mean())
    assert chosen["selection_effect"] == best["accuracy"] - best["test_accuracy"]
    p, q = best["accuracy"], best["test_accuracy"]
    assert chosen["selection_effect_standard_error"] == pytest.approx(
        math.sqrt(p * (1 - p) / 240 + q * (1 - q) / 359)
    )
    listed = sorted(
        (entry["seed"], entry["accuracy"], entry["nonzeros"])
        for arm in summary["arms"].values()
        for entry in arm["seeds"]
    )
    assert listed == sorted((row["seed"], row["accuracy"], row["nonzeros"]) for row in hunted.table)
    groups = {(g["architecture"], g["density"]): g for g in summary["aggregate"]}
    low = [r["accuracy"] for r in hunted.table if r["density"] == 0.1]
    assert groups["64-24-10", 0.1]["accuracy"]["mean"] == pytest.approx(np.mean(low))
    assert groups["64-24-10", 0.1]["accuracy"]["n"] == 7


def test_winners_are_the_trained_networks(hunted: Hunted) -> None:
    """A winner, loaded as an ordinary network, reaches the accuracy of its row and of the summary."""
    digits = data.load("digits")
    winners = hunted.summary["winners"]
    assert winners and {t["criterion"] for w in winners for t in w["titles"]} == set(CRITERIA)
    for winner in winners:
        spec, params, structure = load_winner(hunted.folder / winner["path"])
        assert (spec.sizes, spec.density, spec.init) == ((64, 24, 10), winner["density"], "sparse-fan-in")
        for topology in structure.weights:
            assert isinstance(topology, Topology)
            validate_topology(topology)
        counts = jaxnet.count_nonzeros(params, structure)
        assert (int(counts["scaffold"]), int(counts["bias"])) == (winner["nonzeros"], winner["biases"])
        for images, y, accuracy in (
            (digits.x_val, digits.y_val, winner["accuracy"]),
            (digits.x_test, digits.y_test, winner["test_accuracy"]),
        ):
            x = data.normalise(images, digits.mean, digits.std)
            logits, _ = jaxnet.apply(spec, params, structure, x)
            # a tie in the last bit may turn one answer round
            assert np.mean(np.asarray(logits).argmax(1) == y) == pytest.approx(accuracy, abs=1.01 / len(y))
        (w1, b1), (w2, b2) = to_scipy(params, structure)
        by_hand = (w2 @ np.maximum(w1 @ np.asarray(x).T + b1[:, None], 0) + b2[:, None]).T
        np.testing.assert_allclose(by_hand, logits, atol=1e-4)


def test_the_plan_is_printed_before_anything_is_trained(hunted: Hunted) -> None:
    assert hunted.lines[0] == "single: 14 networks, densities 0.1, 0.3, 2 epochs, seeds 0 to 6"
    assert "14 networks of 1 architecture, 4 calls of 4," in hunted.lines[1]
    stage = files.read_json(hunted.folder / PLAN)["stages"][0]
    assert stage["programs"][0]["chunk"] == 4 and stage["networks"] == 14
    for name in ("accuracy.png", "extrema.png", "pareto.png"):
        assert (hunted.folder / name).read_bytes().startswith(b"\x89PNG")


def replayed(folder: Path, cache: Path, **wanted: Any) -> dict[str, Any]:
    with compiling_once(cache):
        return replay_main(ReplayConfig(out=str(folder), **wanted), lambda line: None)


def test_replay_gives_the_row(hunted: Hunted, xla_cache: Path) -> None:
    alone = replayed(hunted.folder, xla_cache, seed=5, density=0.3)
    assert alone["agrees"]
    for name, (row, again) in alone["compared"].items():
        if name in ("seed", "nonzeros", "architecture", "density"):
            assert row == again
    assert alone["compared"]["loss"][1] == pytest.approx(alone["compared"]["loss"][0], rel=1e-3)
    exact = replayed(hunted.folder, xla_cache, seed=6, density=0.1, same_program=True)
    assert exact["equal"] and exact["verdict"].startswith("equal to the last bit")


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (
            {"seed": 99},
            "no row of seed 99: the table holds seeds 0 to 6; architecture 64-24-10; density 0.1|0.3; stage",
        ),
        ({"seed": 1}, "2 rows of seed 1: say which by --density 0.1|0.3"),
        ({"seed": 1, "architecture": "64-10"}, "no row of seed 1, architecture 64-10"),
    ],
)
def test_replay_of_what_is_not_there(
    wanted: dict[str, Any], words: str, hunted: Hunted, xla_cache: Path
) -> None:
    with pytest.raises(InputError) as caught:
        replayed(hunted.folder, xla_cache, **wanted)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_replay_notices_a_row_that_was_changed(copy_of_hunted: Path, xla_cache: Path) -> None:
    hunt = table_of(copy_of_hunted)
    first = [row for row in hunt.read().to_pylist() if row["seed"] in (0, 1)]
    first[0] = {**first[0], "accuracy": first[0]["accuracy"] - 0.2}
    hunt.write(hunt.part(0, 0, 0), pa.Table.from_pylist(first, hunt.schema), {"compile": 0.0, "run": 0.0})
    with pytest.raises(InputError, match="does not give its row: different in accuracy"):
        replayed(copy_of_hunted, xla_cache, seed=0, density=first[0]["density"])


def test_seeds_are_the_same_in_every_hunt(hunted: Hunted, hunter: Hunter) -> None:
    """A hunt of other seeds trains, where both do, the same networks."""
    other = hunter("other", seed=4, num_seeds=5, epochs=2)
    rows = {(r["seed"], r["density"]): r for r in hunted.table}
    shared = [r for r in other.table if (r["seed"], r["density"]) in rows]
    assert len(shared) == 6
    for row in shared:
        again = rows[row["seed"], row["density"]]
        assert row["accuracy"] == pytest.approx(again["accuracy"], abs=0.02)
        assert row["loss"] == pytest.approx(again["loss"], rel=1e-3)


@pytest.mark.slow
def test_protocol_seed(hunter: Hunter) -> None:
    hunt = hunter("protocol-seed", protocol="seed", own_order=True, num_seeds=5, epochs=1, densities=(0.3,))
    rows = hunt.table
    assert {(r["mask"], r["split"]) for r in rows} == {("bernoulli", "test")}
    weights = [r["nonzeros"] for r in rows]
    # 1776 positions at 0.3: mean 532.8, standard deviation 19.3
    assert len(set(weights)) > 1 and all(abs(w - 532.8) < 6 * 19.3 for w in weights)
    chosen = hunt.summary["selection"]["overall"]
    assert chosen["selected_on"] == "test" and chosen["selection_effect"] is None
    winner = hunt.summary["ranking"]["overall"]["accuracy"][0]
    assert winner["accuracy"] == winner["test_accuracy"]
    spec, params, structure = load_winner(hunt.folder / winner["winner"])
    assert spec.init == "dense-fan-in"
    digits = data.load("digits")
    logits, _ = jaxnet.apply(spec, params, structure, data.normalise(digits.x_test, digits.mean, digits.std))
    found = np.mean(np.asarray(logits).argmax(1) == digits.y_test)
    assert found == pytest.approx(winner["accuracy"], abs=1.01 / 359)


@pytest.mark.slow
def test_coarse_then_fine(hunter: Hunter, xla_cache: Path) -> None:
    sweep = {"mode": "sweep", "densities": (0.004, 0.1), "points": 2, "epochs": None, "coarse_epochs": 1}
    hunt = hunter("sweep", **sweep, fine_epochs=2, num_seeds=2, chunk=8, sort_units=True, min_accuracy=0.0)
    rows = hunt.table
    coarse = [r for r in rows if r["stage"] == "coarse"]
    assert {(r["density"], r["epochs"]) for r in coarse} == {(0.1, 1)}, "0.004 leaves 240 positions none"
    promising = any(r["accuracy"] >= 0.15 and r["patchability"] >= 0.2 for r in coarse)
    assert promising, "or this test shows nothing"
    fine = [r for r in rows if r["stage"] == "dense"]
    assert {(r["density"], r["epochs"]) for r in fine} == {(0.05, 2), (0.2, 2)}
    wanted = {"seed": 1, "stage": "dense", "density": 0.05}
    assert replayed(hunt.folder, xla_cache, **wanted, same_program=True)["equal"]
    for winner in hunt.summary["winners"]:
        _, params, structure = load_winner(hunt.folder / winner["path"])
        first, _ = to_scipy(params, structure)
        norms = np.sqrt(first[0].power(2).sum(axis=1))
        assert np.all(np.diff(norms) <= 1e-6)


def test_command_prints_ranking_and_selection(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, xla_cache: Path
) -> None:
    with compiling_once(xla_cache):
        command([*as_flags({}), "--out", str(tmp_path / "out")])
        printed = capsys.readouterr().out
        command(["replay", str(tmp_path / "out"), "--seed", "3", "--density", "0.3"])
    assert "digits, 14 networks, protocol clean" in printed
    assert "validation accuracy of all 14 networks: mean" in printed
    assert "selection: the best of 14 lies" in printed
    assert "64-24-10, density 0.3, seed 3, single" in capsys.readouterr().out
    assert seed_hunt.Config(**SMALL).num_seeds == 7
    # what the tests chose, which nothing of this changed
    assert jax.default_backend() == ("cpu" if os.environ["JAX_PLATFORMS"] == "cpu" else "gpu")


@pytest.mark.slow
@pytest.mark.parametrize("mask_mode", [None, "enforced"])
def test_a_hunt_as_described_fills_up_or_does_not(mask_mode: str | None, hunter: Hunter) -> None:
    flags: dict[str, Any] = {"protocol": "described", "mask_mode": mask_mode, "densities": (0.1,)}
    found = hunter(f"described {mask_mode}", num_seeds=4, promising=0.0, **flags)
    for row in found.table:
        assert (row["mask"], row["split"]) == ("bernoulli", "test")
        share = row["nonzeros"] / (64 * 24 + 24 * 10)
        assert share < 0.16 if mask_mode else 0.6 < share <= 1
        assert 0 <= row["extrema_score"] <= 24 + 10, "outputs of all linear layers, for every sample"
        assert row["efficiency"] == pytest.approx(1000 * row["accuracy"] / (64 * 24 + 24 * 10 + 34))
        assert row["patchability"] == pytest.approx(row["extrema_score"] * (1 - row["accuracy"]))
    assert sum(line.startswith("promising: 64-24-10") for line in found.lines) == 4
    winner = found.summary["winners"][0]
    _, params, structure = load_winner(found.folder / winner["path"])
    assert sum(len(layer.weight) for layer in params.scaffold) == winner["nonzeros"]
    pixels = data.load("digits", validation_fraction=0.0)
    split = lab.run.make_split(
        dataclasses.replace(pixels, mean=0 * pixels.mean, std=0 * pixels.std + 1), "test"
    )
    assert jaxnet.sweep.winner_accuracy(params, structure, "relu", split) == pytest.approx(winner["accuracy"])
