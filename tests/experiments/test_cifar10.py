"""The studies of CIFAR-10 on tiny digits, and augmentation in every study."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import cifar10_growth, cifar10_mlp, cifar10_patched, patched_density, seed_hunt
from jaxnet.lab import run_main
from tests.experiments.patched import compiling_once, read_json

DIGITS = ["--dataset", "digits", "--kernel", "dense"]
PATCHED = [
    *(*DIGITS, "--hidden", "16-12", "--density", "0.3", "--total-patches", "6", "--num-seeds", "2"),
    *("--headline-seeds", "2", "--headline-hidden", "12", "--test-batches", "2"),
    *("--scaffold-epochs", "2", "--patch-epochs", "2"),
]


@pytest.mark.parametrize(
    ("module", "flags", "says"),
    [
        ("patched_density", "--dataset cliff --augment crop", "flat features"),
        ("seed_hunt", "--dataset cliff --augment flip", "flat features"),
        ("indefinite_growth", "--dataset cliff --augment affine", "flat features"),
        ("method_comparison", "--dataset cliff --augment crop", "flat features"),
        ("cliff_rescue", "--augment crop", "flat features"),
        ("optimal_bootstrap", "--dataset digits --augment turn", "--augment must be some of"),
        ("seed_hunt", "--dataset digits --own-draws", "no meaning without --augment"),
        ("patched_density", "--dataset digits --sizes 64,5,10 --max-patches 20", "widest hidden layer has 5"),
        ("patched_density", "--dataset digits --sizes 64,5,10 --total-patches 20", "have room for 5"),
        ("patched_density", "--dataset digits --extrema-samples 2000", "1198 training samples only"),
        ("cifar10_patched", "--dataset digits --hidden 5", "--total-patches 20: 5 has 5 units"),
        ("cifar10_patched", "--dataset digits --test-batches 9", "digits has 359 test samples"),
        ("cifar10_growth", "--dataset digits --hidden 16,a", "sizes joined by"),
    ],
)
def test_wrong_input_is_one_line(
    module: str, flags: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made: Any = importlib.import_module(f"experiments.{module}")
    page = getattr(made, "CONTROLS", None) or made.STUDY
    with pytest.raises(SystemExit) as stopped:
        run_main(page.main, page.config, [*flags.split(), "--out", str(tmp_path / "run")])
    error = capsys.readouterr().err.strip()
    assert stopped.value.code == 2
    assert says in error
    assert len(error.splitlines()) == 1
    assert not list((tmp_path / "run").rglob("*.json"))


def accuracies(out: Path, *flags: str) -> list[float]:
    """Validation accuracy of every epoch of two networks that are patched, or of one of them."""
    given = "--sizes 64,12,10 --scaffold-epochs 1 --patch-epochs 0 --max-patches 0 --augment crop,flip"
    run_main(
        patched_density.STUDY.main,
        patched_density.Config,
        [*DIGITS, *given.split(), *flags, "--out", str(out)],
    )
    seeds = read_json(out / "summary.json")["arms"]["patched"]["seeds"]
    return [seed["patched_accuracy"] for seed in seeds]


@pytest.mark.slow
@pytest.mark.parametrize("own", [[], ["--own-draws"]])
def test_a_seed_alone_repeats_its_row_with_augmentation(own: list[str], tmp_path: Path) -> None:
    both = accuracies(tmp_path / "both", "--num-seeds", "2", *own)
    alone = accuracies(tmp_path / "alone", "--seed", "1", "--num-seeds", "1", *own)
    np.testing.assert_allclose(alone, both[1:])


@pytest.mark.slow
@pytest.mark.parametrize("own", [[], ["--own-draws"]])
def test_a_hunt_replays_augmented_networks(own: list[str], tmp_path: Path) -> None:
    flags = "--sizes 64,12,10 --num-seeds 6 --epochs 1 --top-k 1 --augment crop,flip --densities 0.2"
    out = tmp_path / "hunt"
    run_main(seed_hunt.STUDY.main, seed_hunt.Config, [*DIGITS, *flags.split(), *own, "--out", str(out)])
    assert seed_hunt.replay_main(seed_hunt.ReplayConfig(str(out), 3))["agrees"]


def documented(page: Any, flags: Sequence[str], folder: Path, cache: Path) -> Path:
    """Runs a page, with its document ``a.md`` in the folder; where it ran."""
    out = folder / "run"
    with compiling_once(cache):
        run_main(page.main, page.config, [*flags, "--out", str(out), "--doc", str(folder / "a.md")])
    return out


@pytest.mark.slow
def test_patches_in_all_and_as_many_weights_from_the_start(tmp_path: Path, xla_cache: Path) -> None:
    out = documented(cifar10_patched.CONTROLS, PATCHED, tmp_path, xla_cache)
    arms = {path.parent.name: read_json(path) for path in (out / "16-12").glob("*/summary.json")}
    assert len(arms) == len(cifar10_patched.ARMS)
    most = [seed["num_patches"] for run in arms.values() for seed in run["seeds"]]
    assert max(most) == 6
    weights = {name: run["aggregate"]["weights"]["mean"] for name, run in arms.items()}
    more = weights["no-patches--as-many-weights-from-the-start"]
    assert more == pytest.approx(weights["mlp--extrema"], abs=3)
    (original,) = (read_json(path) for path in out.glob("original/summary.json"))
    for seed in original["seeds"]:
        assert len(seed["layer_means"]) == len(seed["layer_deviations"]) == 2
        assert 0 <= seed["output_low"] <= 10
    assert "28.62" in (tmp_path / "a.md").read_text()


@pytest.mark.slow
def test_growing_and_static_networks_end_with_as_many_weights(tmp_path: Path, xla_cache: Path) -> None:
    flags = "--hidden 16 --densities 0.2 --num-seeds 2 --iterations 2 --epochs 2 --augment crop"
    out = documented(cifar10_growth.CONTROLS, [*DIGITS, *flags.split()], tmp_path, xla_cache)
    runs = [read_json(path) for path in out.rglob("summary.json")]
    assert len(runs) == len(cifar10_growth.ARMS)
    assert len({seed["nonzeros"]["scaffold"] for run in runs for seed in run["arms"]["grown"]["seeds"]}) == 1
    assert (tmp_path / "a.png").exists()


@pytest.mark.slow
def test_methods_with_a_dense_output_layer(tmp_path: Path, xla_cache: Path) -> None:
    flags = "--sizes 64,24,16,10 --densities 0.2 --epochs 2 --every 5 --methods static,set-correlated"
    more = "--allocation dense-output --weight-decay 0.01 --own-draws --augment crop,affine"
    given = [*DIGITS, *flags.split(), *more.split()]
    out = documented(cifar10_mlp.CONTROLS, given, tmp_path, xla_cache)
    weights = {
        seed["weights"]
        for path in out.rglob("summary.json")
        for run in [read_json(path)]
        for arm in run["arms"].values()
        for seed in arm["seeds"]
    }
    assert weights == {int(0.2 * (64 * 24 + 24 * 16 + 160))}
    assert "71.29" in (tmp_path / "a.md").read_text()
