"""Wrong input to ``seed_hunt`` ends with one clear line, exit code 2 and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.seed_hunt import command
from jaxnet.errors import InputError
from tests.experiments.hunts import Hunter
from tests.experiments.patched import compiling_once

WRONG = [
    (["--densities", "0"], "--densities must be above 0 and at most 1: 0.0"),
    (["--densities", "0.1,0.1"], "--densities must be different numbers"),
    (["--densities", ""], "--densities must be different numbers, at least one"),
    (["--densities", "0.001"], "leaves a layer of 64-24-10 without any weight: raise --densities"),
    (["--mode", "range"], "--mode range needs --densities lowest,highest, for instance 0.005,0.05"),
    (["--mode", "range", "--densities", "0.3,0.1"], "--mode range needs --densities lowest,highest"),
    (["--points", "3"], "--points has no meaning with --mode single: leave it out or choose --mode sweep"),
    (["--mode", "sweep", "--epochs", "3"], "--epochs has no meaning with --mode sweep"),
    (["--coarse-epochs", "3"], "--coarse-epochs has no meaning with --mode single"),
    (["--mode", "wide"], "'wide' is not one of single, sweep, range"),
    (["--num-seeds", "0"], "--num-seeds must be at least 1: 0"),
    (["--top-k", "0"], "--top-k must be at least 1: 0"),
    (["--chunk", "0"], "--chunk must be at least 1: 0"),
    (["--lr", "0"], "--lr must be above 0: 0.0"),
    (["--min-accuracy", "1.5"], "--min-accuracy must be at least 0 and at most 1: 1.5"),
    (["--budget", "0s"], "--budget must be a number above 0 with its unit, seconds or whole seeds"),
    (["--budget", "5m"], "for instance 300s or 500seeds: '5m'"),
    (["--budget", "1.5seeds"], "seconds or whole seeds, for instance 300s or 500seeds: '1.5seeds'"),
    (["--halving", "1"], "--halving must be at least 2: 1"),
    (
        ["--halving", "3", "--epochs", "2"],
        "--halving 3 needs --epochs 3 or more, for a first rung of one epoch",
    ),
    (["--halving", "4", "--mode", "sweep"], "--halving 4 needs --coarse-epochs 4 or more"),
    (["--memory-budget", "0"], "--memory-budget must be at least 1: 0"),
    (["--promising", "-0.1"], "--promising must be at least 0: -0.1"),
    (["--mask-mode", "enforced"], "--mask-mode has a meaning with --protocol described only"),
    (["--protocol", "described", "--halving", "2"], "--halving has no meaning where all weights are trained"),
    (["--protocol", "described", "--normalise", "channels"], "--protocol described takes the samples in one"),
    (["--portfolio", "later"], "--sizes and --portfolio exclude each other"),
    (["--sizes", "784,128,10"], "does not fit digits: it has 64 features and 10 classes, so give 64,...,10"),
    (["--sizes", "64,128,9"], "does not fit digits"),
    (["--sizes", "64"], "--sizes needs two or more positive sizes"),
    (["--sizes", "64,0,10"], "--sizes needs two or more positive sizes"),
    (["--sparsity", "0.1"], "--sparsity"),
    (["--kernel", "fast"], "'fast' is not one of auto, dense, csr"),
    (["--precision", "f16"], "'f16' is not one of f32, tf32, bf16"),
    (["--workers", "4"], "--workers must be none, local:N, tcp://HOST:PORT or tls://HOST:PORT: '4'"),
    (
        ["--allocation", "dense-output", "--densities", "0.05"],
        "density 0.05 leaves a layer of 64-24-10 without",
    ),
    (["--allocation", "erdos-renyi", "--protocol", "seed"], "--allocation erdos-renyi has no meaning with"),
    (["--method", "rigl", "--halving", "2"], "--method and --halving exclude each other"),
    (["--method", "set"], "--method set changes weights every 100 steps, and 5 epochs have 95: train longer"),
    (["--require-reach", "0"], "--require-reach must be at least 1: 0"),
    (["--require-reach", "11"], "--require-reach must be at most 10, the classes there are: 11"),
    (["--require-reach", "5", "--mode", "sweep"], "--require-reach and --mode sweep exclude each other"),
    (
        ["--require-reach", "10", "--densities", "0.03"],
        "the last layer of 64-24-10 has 7 weights at density 0.03, so no scaffold reaches 10 classes",
    ),
    (["--densities", "0.1", "--densities", "0.2"], "more than once"),
    (["--resume", "--overwrite"], "--resume and --overwrite exclude each other"),
    (["--dataset", "digit"], "unknown data set 'digit' (did you mean digits?)"),
    (["replay"], "there is no hunt here: give the folder that --out named"),
    (["replay", "nowhere", "--seed", "1"], "nowhere: there is no hunt here"),
    (["replay", "--seed", "x"], "'x' is not a whole number"),
]


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
    if argv[0] != "replay":
        argv = [*([] if "--sizes" in argv else ["--sizes", "64,24,10"]), *argv, "--out", "out"]
    with compiling_once(xla_cache), pytest.raises(SystemExit) as caught:
        command(argv)
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == ""
    assert err.startswith("error: ") and len(err.splitlines()) == 1 and words in err, err
    left = [path.name for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]
    assert left == [], "nothing is written"


@pytest.mark.slow
def test_a_budget_of_memory_that_no_network_fits(hunter: Hunter, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"single/sizes: .* bytes, more than the budget of 1048576"):
        hunter("memory", out=tmp_path / "out", sizes=(64, 3000, 10), memory_budget=1)
    # a larger budget needs no --overwrite
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.slow
def test_smaller_memory_makes_smaller_calls(hunter: Hunter) -> None:
    hunt = hunter(
        "calls", memory_budget=8, chunk=8, num_seeds=8, epochs=1, densities=(0.1,), sizes=(64, 256, 10)
    )
    entry = hunt.summary["plan"][0]["programs"][0]
    assert 1 <= entry["chunk"] < 8 and entry["bytes_per_call"] <= 8 * 2**20
    assert entry["calls"] == -(-8 // entry["chunk"])
    assert [r["seed"] for r in hunt.table] == list(range(8))
