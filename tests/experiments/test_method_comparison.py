"""``experiments.method_comparison`` at a small size: counts, rates, killed and continued, wrong input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from experiments import _method_arms as arms
from experiments import _method_rewind as rewinding
from experiments import _method_sparser as sparser
from experiments import method_comparison
from experiments._method_run import ARM, ArmConfig
from jaxnet.allocation import allocate
from jaxnet.lab import run_main
from tests.experiments.patched import compiling_once, read_json

SIZES = (64, 16, 12, 10)
FULL = 64 * 16 + 16 * 12 + 12 * 10
SMALL = [
    *("--dataset", "digits", "--sizes", "64,16,12,10", "--densities", "0.2", "--num-seeds", "2", "--epochs"),
    *("4", "--rounds", "1", "--methods", "static,snip,rewind", "--batch-size", "64", "--peers", "--rates"),
]


def command(cache: Path, out: Path, *flags: str) -> None:
    """Runs the comparison in this process."""
    with compiling_once(cache):
        run_main(
            method_comparison.CONTROLS.main, method_comparison.Config, [*SMALL, *flags, "--out", str(out)]
        )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, xla_cache: Path) -> Path:
    """A comparison of three methods."""
    out = tmp_path_factory.mktemp("methods") / "run"
    command(xla_cache, out, "0.01", "--doc", str(out.parent / "methods.md"))
    return out


def runs(out: Path) -> dict[str, dict[str, Any]]:
    """The summary of every method."""
    return {path.parent.name.split("-")[-1]: read_json(path) for path in out.glob("density*/summary.json")}


def test_every_network_has_the_weights_that_it_should_and_costs_what_it_must(finished: Path) -> None:
    found = runs(finished)
    weights = sum(allocate(SIZES, 0.2, "erdos-renyi"))
    assert weights == int(0.2 * FULL)
    for run in found.values():
        (arm,) = run["arms"].values()
        assert [seed["weights"] for seed in arm["seeds"]] == [weights] * 2
    most = {name: run["most_weights"] for name, run in found.items()}
    assert most == {"static": weights, "snip": weights, "rewind": FULL}
    assert {name: run["epochs"] for name, run in found.items()} == {
        "static": 4,
        "snip": 4,
        "rewind": 1 + 2 * 4,
    }


def test_the_cheapest_run_is_counted_by_hand() -> None:
    layers = [(10, 100), (5, 50)]
    static, rigl = (arms.make_method(arms.ARMS[name], 0.1, 40, 10) for name in ("static", "rigl"))

    def flops(name: str, method: Any) -> float:
        return arms.flops(arms.ARMS[name], method, arms.budgets(method, layers, 40), 150, 8)

    products = 6 * 8 * 40 * 15  # forward, back to inputs and to weights: two operations each
    assert flops("static", static) == products
    # changed after steps 10 and 20, not after 30, when three quarters are over
    assert flops("rigl", rigl) == products + 2 * 6 * 8 * 150


def test_a_training_after_every_pruning_has_the_same_share_of_the_one_before() -> None:
    assert rewinding.weights_of_rounds(0.01, 2, 10_000) == [10_000, 1_000, 100]
    counts = rewinding.weights_of_rounds(0.02, 5, 234_752)
    assert (counts[0], counts[-1]) == (234_752, 4_695)
    np.testing.assert_allclose(np.divide(counts[1:], counts[:-1]), 0.02**0.2, rtol=1e-3)
    pruned = [round(one) for one in counts]
    assert pruned == sorted(pruned, reverse=True)


def test_what_a_run_leaves(finished: Path) -> None:
    table = pyarrow.parquet.read_table(finished / "networks.parquet")
    columns = table.to_pydict()
    assert sorted(columns["method"]) == ["rewind", "rewind", "snip", "snip", "static", "static"]
    assert set(columns["density"]) == {0.2} and set(columns["weights"]) == {int(0.2 * FULL)}
    compared = read_json(finished.parent / "methods.json")["comparisons"]
    judged = [(one["first"], one["second"]) for one in compared if one["primary"]]
    assert judged == [(f"0.2: {name}", "0.2: static") for name in ("snip", "rewind")]
    assert all(one["verdict"] == "no verdict" and one["n"] == 2 for one in compared)
    page = (finished.parent / "methods.md").read_text()
    for name, run in runs(finished).items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {name} |")]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[5:8] == [str(int(0.2 * FULL)), str(run["most_weights"]), str(run["epochs"])]


def test_the_best_test_epoch_is_no_worse_than_the_one_chosen_on_validation(finished: Path) -> None:
    found = runs(finished)
    for name in ("static", "snip"):
        (arm,) = found[name]["arms"].values()
        pairs = [(seed["accuracy_peers"], seed["accuracy"]) for seed in arm["seeds"]]
        assert all(best >= chosen for best, chosen in pairs)
    (arm,) = found["rewind"]["arms"].values()
    assert "accuracy_peers" not in arm["aggregate"]  # of several trainings


def test_when_networks_get_smaller_arrays() -> None:
    existed = [1000, 1000, 900, 400, 250, 180, 100, 60, 50, 50, 50, 50, 50]  # 12 steps
    assert sparser.sparser_from(existed, 2, 1000) == [2, 4], "250 of 1,000 after epoch 2, 50 after epoch 4"
    assert sparser.sparser_from(existed, 6, 1000) == [1], "100 after the first, and the last is the end"
    assert sparser.sparser_from([50] * 7, 2, 1000) == [], "sparse from the start"
    assert sparser.room_for(300, (200, 1000)) == [200, 300]


@pytest.mark.slow
def test_a_pruned_network_is_computed_sparsely_and_stays_the_same(tmp_path: Path, xla_cache: Path) -> None:
    """Continued in smaller arrays it makes the same steps as masked to the end."""
    flags = ["--dataset", "digits", "--sizes", "64,24,10", "--density", "0.1", "--num-seeds", "2"]
    flags += ["--arm", "lamp", "--rates", "0.01,0.003", "--epochs", "6", "--every", "5", "--batch-size", "64"]
    for kernel in ("dense", "csr"):
        with compiling_once(xla_cache):
            run_main(ARM.main, ArmConfig, [*flags, "--kernel", kernel, "--out", str(tmp_path / kernel)])
    (whole, phases), (staged, names) = (steps(tmp_path / kernel) for kernel in ("dense", "csr"))
    assert phases == {"train"} and names == {"train", "train-from-2", "train-from-4"}
    assert whole.keys() == staged.keys() and len(whole) == 2 * 2 * 6
    np.testing.assert_allclose([*staged.values()], [*whole.values()], rtol=1e-4)
    both = [read_json(tmp_path / kernel / "summary.json")["arms"] for kernel in ("dense", "csr")]
    for name, arm in both[0].items():
        for one, other in zip(arm["seeds"], both[1][name]["seeds"], strict=True):
            assert one["weights"] == other["weights"] == int(0.1 * (64 * 24 + 24 * 10))
            assert one["best_epoch"] == other["best_epoch"] >= 4, "not while there were more weights"
            assert abs(one["accuracy"] - other["accuracy"]) < 1e-6


def steps(out: Path) -> tuple[dict[Any, float], set[str]]:
    """Training losses by arm, seed and epoch, and the names of the stages."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = {(row["arm"], row["seed"], row["epoch"]): row["train_loss"] for row in rows}
    return losses, {row["phase"] for row in rows}


def test_a_small_dense_network_has_no_bottleneck() -> None:
    assert arms.small_sizes((784, 256, 128, 10), 4695) == (784, 5, 5, 10)
    assert arms.small_sizes((784, 256, 128, 10), 40_000) == (784, 49, 24, 10)
    assert 784 * 49 + 49 * 24 + 24 * 10 <= 40_000 < 784 * 50 + 50 * 25 + 25 * 10


def test_a_run_continued_is_as_one_that_was_not_stopped(
    finished: Path, tmp_path: Path, xla_cache: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    stopped = next(copy.glob("density*rewind"))
    (stopped / "summary.json").unlink()
    last = sorted((stopped / "checkpoints").iterdir(), key=lambda path: path.stat().st_mtime)[-1]
    shutil.rmtree(last)  # goes on from the one before
    command(xla_cache, copy, "0.01", "--resume")
    first, second = ([run["arms"] for _, run in sorted(runs(out).items())] for out in (finished, copy))
    assert first == second


def test_the_rate_of_the_highest_validation_accuracy_is_taken() -> None:
    def trial(mean: float | None) -> dict[str, Any]:
        return {"aggregate": {"watched": {"mean": mean}}}

    trials = {"arms": {"0.1": trial(0.5), "0.2": trial(0.7), "0.3": trial(0.7), "0.4": trial(None)}}
    assert method_comparison.best_rate(trials, [0.1, 0.2, 0.3, 0.4]) == 0.2
    config = method_comparison.Config(num_seeds=16, seed=3)
    assert method_comparison.trial_seed(config) == 19  # the first that is not compared


WRONG = [
    (["--methods", "rigll"], "unknown method 'rigll'"),
    (["--methods", "rigl", "--baseline", "static"], "--baseline must be one of the methods"),
    (["--methods", "static,static"], "names a method twice"),
    (["--densities", "2"], "--densities must be"),
    (["--densities", "0.1", "--densities", "0.2"], "--densities is given more than once"),
    (["--densities", "0.2,0.2"], "must be different numbers"),
    (["--epochs", "0"], "--epochs must be"),
    (["--methods", "static,static-dense-output", "--densities", "0.01"], "too few for a dense output"),
    (["--methods", "static,small-dense", "--densities", "0.04"], "too few for a dense network"),
    (["--methods", "static,set", "--every", "1000"], "set changes weights every 1000 steps"),
    (["--methods", "static,magnitude", "--epochs", "1"], "weights are left before the last epoch"),
]


@pytest.mark.parametrize(("flags", "message"), WRONG, ids=lambda value: " ".join(value)[:40])
def test_wrong_input_is_one_line(
    flags: list[str], message: str, tmp_path: Path, xla_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--dataset", "digits", "--sizes", "64,16,12,10", "--num-seeds", "2"]
    out = tmp_path / "out"
    with compiling_once(xla_cache), pytest.raises(SystemExit) as caught:
        density = [] if "--densities" in flags else ["--densities", "0.2"]
        argv = [*given, *density, *flags, "--out", str(out)]
        run_main(method_comparison.CONTROLS.main, method_comparison.Config, argv)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.startswith("error: ") and len(error.splitlines()) == 1
    assert message in error, error
    assert not out.exists()
