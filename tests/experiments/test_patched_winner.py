"""``patched_density --from-checkpoint``: the winner of a hunt is patched, that one and no other."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.patched_density import Config, settle
from jaxnet import data
from jaxnet.errors import InputError
from jaxnet.sweep import load_winner, save_winner, winner_meta
from tests.experiments.hunts import Hunted
from tests.experiments.patched import (
    Finished,
    Runner,
    cache_variables,
    contents,
    results,
)

Run = Callable[..., subprocess.CompletedProcess[str]]

OURS: dict[str, Any] = {
    "sizes": None,
    "density": None,
    "scaffold_epochs": None,
    "num_seeds": 2,
    "patch_epochs": 2,
    "detect_on": "post",  # as the hunt does
}
"""Changes of the small run that leave all to the winner."""


def rows(hunted: Hunted) -> list[dict[str, Any]]:
    """The winners, those with the most high extrema first: with one hidden layer, only they get patches."""
    return sorted(hunted.summary["winners"], key=lambda winner: -int(winner["high"]))


def winners(hunted: Hunted) -> list[Path]:
    """The folders of :func:`rows`."""
    return [hunted.folder / row["path"] for row in rows(hunted)]


@pytest.fixture(scope="module")
def from_winner(hunted: Hunted, patched: Runner) -> Finished:
    """A winner, patched; not to be changed by tests."""
    return patched("from-winner", **OURS, from_checkpoint=str(winners(hunted)[0]))


def test_the_scaffold_is_the_winner(hunted: Hunted, from_winner: Finished) -> None:
    winner = rows(hunted)[0]
    scaffold = [row for row in from_winner.rows if row["phase"] == "scaffold"]
    assert [(row["seed"], row["epoch"], row["split"]) for row in scaffold] == [
        (0, 0, "validation"),
        (1, 0, "validation"),
    ]
    for row, seed in zip(scaffold, from_winner.seeds, strict=True):
        assert row["accuracy"] == pytest.approx(winner["accuracy"], abs=1e-6)
        assert seed["scaffold_accuracy"] == pytest.approx(winner["test_accuracy"], abs=1e-6)
        assert seed["nonzeros"]["scaffold"] == winner["nonzeros"]
        assert seed["nonzeros"]["bias"] == winner["biases"]
        assert (seed["extrema_high"], seed["extrema_low"]) == ([winner["high"]], [winner["low"]])
    summary = from_winner.summary
    assert summary["sizes"] == [64, 24, 10]
    assert summary["config"]["density"] == winner["density"]
    assert summary["config"]["scaffold_epochs"] == 0
    assert summary["provenance"]["checkpoint"]["row"]["seed"] == winner["seed"]
    assert summary["provenance"]["checkpoint"]["test_accuracy"] == winner["test_accuracy"]


def test_seeds_differ_in_their_patches_and_start_from_the_same_values(
    hunted: Hunted, from_winner: Finished
) -> None:
    _, params, structure = load_winner(winners(hunted)[0])
    state = from_winner.scaffolds["scaffold"].kept["state"]
    for ours, theirs in zip(state.net.params.scaffold, params.scaffold, strict=True):
        for seed in range(2):
            assert np.array_equal(ours.weight[seed], theirs.weight)
            assert np.array_equal(ours.bias[seed], theirs.bias)
    first, second = ([(p["kind"], p["unit"]) for p in s["patches"]] for s in from_winner.seeds)
    assert first == second and first, "the same scaffold has the same extrema"
    losses = [row["loss"] for row in from_winner.rows if row["phase"] == "patch" and row["epoch"] == 2]
    assert len(set(losses)) == 2, "patches are drawn per seed"
    assert structure.bank is None


@pytest.mark.slow
def test_killed_anywhere_it_ends_the_same(
    hunted: Hunted, from_winner: Finished, tmp_path: Path, xla_cache: Path, run_python: Run
) -> None:
    moved = tmp_path / "moved" / winners(hunted)[0].name
    shutil.copytree(winners(hunted)[0], moved)  # what the network is counts, not where it lies
    out = tmp_path / "out"
    plan = [
        ["kill", "before", "scaffold-0", 1],  # rows without their checkpoint
        ["int", "after", "scaffold-0", 1],
        ["kill", "half", "metrics.jsonl", 1],
        None,
    ]
    given = {k: v for k, v in OURS.items() if v is not None} | {"kernel": from_winner.config.kernel}
    flags = [part for k, v in given.items() for part in ("--" + k.replace("_", "-"), str(v))]
    done = run_python(
        "-m",
        "tests.experiments.stop_at",
        json.dumps(plan),
        *flags,
        *("--from-checkpoint", str(moved), "--out", str(out), "--resume"),
        env=cache_variables(xla_cache),
    )
    ended = json.loads(done.stdout)
    assert [code for code, _ in ended] == [-signal.SIGKILL, 130, -signal.SIGKILL, 0], ended
    assert results(out) == from_winner.results()


def test_with_another_network_it_is_not_continued(
    hunted: Hunted, from_winner: Finished, patched: Runner, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(from_winner.folder, copy)
    place = winners(hunted)[1]
    before = contents(copy)
    with pytest.raises(InputError, match=r'checkpoint_fingerprint was ".*" and is now ".*"'):
        patched("", out=str(copy), **OURS, from_checkpoint=str(place), resume=True)
    with pytest.raises(InputError, match=r'checkpoint_fingerprint was ".*" and is now not set'):
        changes: dict[str, Any] = {"sizes": (64, 24, 10), "density": 0.3, "num_seeds": 2, "patch_epochs": 2}
        patched("", out=str(copy), **changes, resume=True)
    assert contents(copy) == before


def test_wrong_input(hunted: Hunted, patched: Runner, tmp_path: Path) -> None:
    winner = winners(hunted)[0]
    density = rows(hunted)[0]["density"]
    for changes, words in (
        ({"sizes": (64, 16, 10)}, "--sizes 64,16,10 contradicts the checkpoint .*, which has 64,24,10"),
        ({"density": 0.02}, f"--density 0.02 contradicts the checkpoint .*, which has {density}"),
        ({"activation": "tanh"}, "--activation tanh contradicts the checkpoint .*, which has relu"),
        ({"init": "dense-fan-in"}, "--init dense-fan-in contradicts the checkpoint"),
        ({"allocation": "erdos-renyi"}, "--allocation erdos-renyi contradicts the checkpoint"),
        ({"scaffold_epochs": 3}, "--scaffold-epochs has no meaning with --from-checkpoint"),
        ({"lr": 0.001}, "--lr has no meaning with --from-checkpoint"),
        ({"max_patches": 0}, "all seeds would be one network: give --num-seeds 1"),
        ({"protocol": "seed"}, "was trained under --protocol clean, .*: give --protocol clean"),
        ({"from_checkpoint": str(tmp_path / "nowhere")}, "there is no such folder: give one listed"),
        ({"from_checkpoint": str(hunted.folder)}, "this is no winner of a hunt"),
        ({"from_checkpoint": str(winner / "manifest.json")}, "there is no such folder"),
        ({"from_checkpoint": " "}, "--from-checkpoint must name a folder"),
    ):
        with pytest.raises(InputError, match=words):
            patched("", **{"out": str(tmp_path / "out"), **OURS, "from_checkpoint": str(winner), **changes})
    assert list(tmp_path.iterdir()) == []


def test_what_agrees_may_be_said(hunted: Hunted) -> None:
    said: dict[str, Any] = {
        "sizes": (64, 24, 10),
        "density": rows(hunted)[0]["density"],
        "activation": "relu",
    }
    how: dict[str, Any] = {"from_checkpoint": str(winners(hunted)[0]), "kernel": "dense"}
    digits = data.load("digits")
    assert settle(Config(**how), digits) == settle(Config(**how, **said, scaffold_epochs=0), digits)


@pytest.mark.parametrize("damage", ["manifest", "array", "missing"])
def test_a_damaged_winner(damage: str, hunted: Hunted, patched: Runner, tmp_path: Path) -> None:
    winner = tmp_path / winners(hunted)[1].name
    shutil.copytree(winners(hunted)[0], tmp_path / winners(hunted)[0].name)  # an older one is no way out
    shutil.copytree(winners(hunted)[1], winner)
    biggest = max((p for p in (winner / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    file = winner / "manifest.json" if damage == "manifest" else biggest
    data = file.read_bytes()
    file.unlink() if damage == "missing" else file.write_bytes(data[:-9] + b"?" + data[-8:])
    with pytest.raises(InputError) as caught:
        patched("", out=str(tmp_path / "out"), **OURS, from_checkpoint=str(winner))
    assert str(winner) in str(caught.value) and "delete the folder" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_other_data_and_more_outputs(hunted: Hunted, patched: Runner, tmp_path: Path) -> None:
    winner = winners(hunted)[0]
    spec, params, structure = load_winner(winner)
    known = winner_meta(winner)

    def refused(words: str, network: tuple[Any, Any] = (params, structure), **meta: Any) -> None:
        facts = {k: v for k, v in {**known, **meta}.items() if k in ("row", "dataset", "data_fingerprint")}
        path = save_winner(
            tmp_path / "winners",
            "w",
            *network,
            density=spec.density,
            init=spec.init,
            activation=spec.activation,
            meta=facts,
        )
        with pytest.raises(InputError, match=words):
            patched("", out=str(tmp_path / "out"), **OURS, from_checkpoint=str(path))
        assert not (tmp_path / "out").exists()

    refused(r"other data \(digits, fingerprint 00\) than --dataset gives", data_fingerprint="00")
    refused(r"other data \(mnist, fingerprint 00\) than", data_fingerprint="00", dataset="mnist")
    refused("does not say what it was trained on", data_fingerprint=None)
    seed_row = {**known["row"], "split": "test"}
    refused("under --protocol seed, .*: give --protocol seed", data_fingerprint="00", row=seed_row)
    shallow = (
        params.replace(scaffold=params.scaffold[:1]),
        structure.replace(scaffold=structure.scaffold[:1]),
    )
    refused("24 outputs for the 10 classes of digits", shallow)
