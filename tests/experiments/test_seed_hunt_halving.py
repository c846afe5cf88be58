"""``seed_hunt --halving``: who goes on, with which rows, and hunts that are killed between rungs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments._hunt_plan import make_jobs
from experiments.seed_hunt import Config, ReplayConfig, replay_main
from jaxnet import files
from jaxnet.store import States
from jaxnet.sweep.halving import place_of_best, rank_correlation, rung, rung_epochs, surviving
from jaxnet.sweep.jobs import Stage
from jaxnet.sweep.table import numbers_in
from tests.experiments.hunts import Hunted, Hunter, as_flags, as_table, results, row, table
from tests.experiments.patched import cache_variables, compiling_once, contents

HALVING: dict[str, Any] = {"halving": 2, "epochs": 2}


@pytest.fixture(scope="session")
def halved(hunter: Hunter) -> Hunted:
    """The small hunt, its 14 networks for one epoch, the best 4 of 7 of each density for two."""
    return hunter("halved", **HALVING)


def test_rungs_divide_the_epochs_by_the_factor() -> None:
    assert rung_epochs(9, 3) == [1, 3, 9]
    assert rung_epochs(20, 3) == [2, 6, 20]
    assert rung_epochs(5, 2) == [1, 2, 5]
    assert rung_epochs(3, 3) == [1, 3]
    rungs = Stage("dense", 3, 9, (0.1,)).rungs(3)
    assert [(r.name, r.number, r.start, r.epochs, r.last) for r in rungs] == [
        ("dense", 3, 0, 1, False),
        ("dense", 4, 1, 3, False),
        ("dense", 5, 3, 9, True),
    ]
    assert Stage("dense", 3, 9, (0.1,)).rungs(None) == [Stage("dense", 3, 9, (0.1,))]


def test_the_best_of_each_architecture_and_density_go_on() -> None:
    """By hand: 3 of 7 at 0.1, equal ones by seed; 1 of 2 at 0.2, though it is worse than all at 0.1."""
    rows = [row(s, a) for s, a in enumerate((0.3, 0.5, 0.9, 0.5, 0.5, 0.1, 0.7))]
    table = as_table([*rows, row(0, 0.01, density=0.2), row(1, 0.02, density=0.2)])
    best = [(r["density"], r["seed"]) for r in table.take(surviving(table, 3)).to_pylist()]
    assert best == [(0.1, 2), (0.1, 6), (0.1, 1), (0.2, 1)]
    groups: dict[str, tuple[tuple[int, ...], ...]] = {"g": ((20, 20),)}
    config = Config()
    (job,), _ = make_jobs(Stage("s", 0, 3, (0.1, 0.2)), groups, range(5, 9), config)
    there = [row(7, 0.0, density=0.2, architecture="20-20"), row(5, 0.0, architecture="20-20")]
    left = job._replace(chosen=numbers_in(job.grid, as_table(there)))
    assert list(left.numbers) == [0, 5]
    assert [left.grid.network(n) for n in left.numbers] == [((20, 20), 0.1, 5), ((20, 20), 0.2, 7)]
    assert left.find(there[0]) == 5


def test_agreement_of_rungs_by_hand() -> None:
    early = rung(as_table([row(s, a) for s, a in enumerate((0.1, 0.2, 0.3, 0.4))]))
    late = as_table([row(s, a) for s, a in enumerate((0.7, 0.9, 0.8))])
    assert rank_correlation(early, rung(late)) == pytest.approx(0.5)  # ranks 1 2 3 and 1 3 2
    assert rank_correlation(early, rung(late.slice(0, 2))) is None, "two networks say nothing"
    assert place_of_best(early, rung(late)) == {"median_place": 3.0, "worst_place": 3}
    assert place_of_best(early, rung(late.slice(0, 0))) is None


def test_states_lost_or_damaged_are_not_found(tmp_path: Path) -> None:
    states = States(tmp_path)
    carried = [[np.array([2.0 * k, 2.0 * k + 1]), np.array(k)] for k in range(3)]
    states.save(states.part(0, 1, 0), dict(zip((4, 9, 2), carried, strict=True)))
    states.save(states.part(0, 1, 3), dict(zip((7, 8, 5), carried, strict=True)))
    found = states.load(0, 1, [9, 5, 6])
    assert {g: [leaf.tolist() for leaf in leaves] for g, leaves in found.items()} == {
        9: [[2.0, 3.0], 1],
        5: [[4.0, 5.0], 2],
    }
    assert states.load(0, 0, [9]) == states.load(1, 1, [9]) == {}
    damaged = tmp_path / "states" / "00-01-0000000000.npz"
    damaged.write_bytes(damaged.read_bytes()[:50])
    assert set(states.load(0, 1, [9, 5])) == {5}
    states.drop(0)
    assert contents(tmp_path) == {}


def test_survivors_have_the_rows_of_a_plain_hunt(halved: Hunted, hunted: Hunted) -> None:
    first, second = ([r for r in halved.table if r["epochs"] == epochs] for epochs in (1, 2))
    assert len(first) == 14 and len(second) == 8
    best = as_table(first).take(surviving(as_table(first), 2)).to_pylist()
    assert {(r["density"], r["seed"]) for r in best} == {(r["density"], r["seed"]) for r in second}
    plain = {(r["density"], r["seed"]): r for r in hunted.table}
    for found in second:
        expected = plain[found["density"], found["seed"]]
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3)
        assert found["accuracy"] == pytest.approx(expected["accuracy"], abs=0.02)
        assert {k: found[k] for k in ("nonzeros", "epochs", "stage")} == {
            k: expected[k] for k in ("nonzeros", "epochs", "stage")
        }
    assert not (halved.folder / "states").exists(), "nothing goes on from them any more"


def test_only_the_last_rung_is_ranked_and_the_rungs_are_described(halved: Hunted) -> None:
    summary = halved.summary
    last = [r for r in halved.table if r["epochs"] == 2]
    best = max(last, key=lambda r: (r["accuracy"], -r["seed"]))
    ranked = summary["ranking"]["overall"]["accuracy"][0]
    assert {k: ranked[k] for k in best} == best
    assert all(w["epochs"] == 2 for w in summary["winners"])
    assert summary["networks"] == {"planned": 14, "trained": 14}
    assert summary["distribution"]["overall"]["n"] == summary["selection"]["overall"]["candidates"] == 8
    (stage,) = summary["halving"]
    assert [(r["epochs"], r["networks"], r["went_on"], r["stopped"]) for r in stage["rungs"]] == [
        (1, 14, 8, 6),
        (2, 8, None, None),
    ]
    assert (stage["epochs_trained"], stage["epochs_without"]) == (14 + 8, 28)
    first = [r["accuracy"] for r in halved.table if r["epochs"] == 1]
    assert stage["rungs"][0]["distribution"]["mean"] == pytest.approx(np.mean(first))
    assert any("14 to epoch 1, 8 to epoch 2; 22 epochs instead of 28" in line for line in halved.lines)


@pytest.mark.slow
def test_replay_of_rows_of_both_rungs(halved: Hunted, xla_cache: Path) -> None:
    last = {(r["density"], r["seed"]) for r in halved.table if r["epochs"] == 2}
    went_on, stopped = (
        next(r for r in halved.table if ((r["density"], r["seed"]) in last) == wanted)
        for wanted in (True, False)
    )
    for wanted, epochs in ((went_on, 2), (stopped, 1)):
        config = ReplayConfig(
            str(halved.folder), seed=wanted["seed"], density=wanted["density"], same_program=True
        )
        with compiling_once(xla_cache):
            found = replay_main(config, lambda line: None)
        assert found["equal"] and found["compared"]["epochs"] == (epochs, epochs)


@pytest.mark.slow
def test_killed_between_rungs_and_states_lost(
    halved: Hunted, tmp_path: Path, xla_cache: Path, run_python: Callable[..., Any], hunter: Hunter
) -> None:
    """No row lost, none twice; then without the states, which are made anew."""
    out = tmp_path / "out"
    moments = [
        ["kill", "half", ".npz.partial", 1],
        ["kill", "before", ".parquet", 3],
        ["kill", "after", ".parquet", 2],
    ]
    flags = [*as_flags(HALVING), "--out", str(out), "--resume"]
    done = run_python(
        "-m", "tests.experiments.stop_hunt_at", json.dumps(moments), *flags, env=cache_variables(xla_cache)
    )
    assert done.returncode == 0, done.stderr
    assert [code for code, _ in json.loads(done.stdout)] == [-9, -9, -9], done.stdout
    assert len(table(out)) == 14, "all of the first rung"
    for path in (out / "states").iterdir():
        path.unlink()
    again = hunter("again", out=out, resume=True, **HALVING)
    assert any("lost, so the networks train again" in line for line in again.lines)
    assert results(out) == halved.results()


@pytest.mark.slow
def test_a_budget_within_the_first_rung_ranks_nobody(halved: Hunted, hunter: Hunter, tmp_path: Path) -> None:
    short = hunter("short", out=tmp_path / "out", budget="8seeds", **HALVING)
    assert short.summary["winners"] == [] and not short.summary["complete"]
    assert "selection: none yet, no network has trained to the end" in short.lines
    assert len(files.read_json(tmp_path / "out" / "plan.json")["stages"]) == 1
    hunter("short", out=tmp_path / "out", resume=True, **HALVING)
    assert results(tmp_path / "out") == halved.results()
