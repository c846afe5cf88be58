"""``patched_density`` from end to end: every output is there and says the truth."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import matplotlib.image
import numpy as np
import pytest
from scipy import stats

from experiments import _patched_found, patched_density_controls
from experiments.patched_density import STUDY, Config
from experiments.patched_density_controls import QUESTIONS
from jaxnet import data, lab
from jaxnet.lab.flags import UNSAID
from tests.experiments.patched import (
    SMALL,
    Finished,
    Runner,
    arrays,
    as_flags,
    cache_variables,
    read_json,
    read_rows,
    shown_nan,
)

SEEDS = range(SMALL["num_seeds"])
SIZES = SMALL["sizes"]
LAYERS = range(len(SIZES) - 1)
WEIGHTS = (307, 76, 32)  # int(0.2 * 64 * 24), int(0.2 * 24 * 16), int(0.2 * 16 * 10)
DENSE_WEIGHTS = 64 * 24 + 24 * 16 + 16 * 10
HIGH_MLP = 8 * (1 + 1) + 4 * (8 + 1)  # values of a 1 -> 8 -> 4 network
LOW_MLP = 8 * (20 + 1) + 1 * (8 + 1)  # values of a 20 -> 8 -> 1 network


# What a network does, once more in NumPy, from nothing but the checkpoint and the data.


def standardised(dataset: data.Dataset, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Features ``(sample, feature)`` in float64, and labels."""
    x = np.asarray(getattr(dataset, f"x_{part}"), np.float64) / 255
    return (x - dataset.mean) / dataset.std, np.asarray(getattr(dataset, f"y_{part}"))


def matrix(
    saved: dict[str, np.ndarray], values: np.ndarray, topology: str, shape: tuple[int, int], seed: int
) -> np.ndarray:
    """A dense ``(out, in)`` matrix from the values of a sparse one."""
    rows, cols = (saved[f"{topology}.{name}"][seed] for name in ("rows", "cols"))
    there = rows < shape[0]
    dense = np.zeros(shape)
    dense[rows[there], cols[there]] = values[there]
    assert len(set(zip(rows[there], cols[there], strict=True))) == there.sum()
    return dense


def logits(
    saved: dict[str, np.ndarray], params: str, seed: int, x: np.ndarray, *, patched: bool
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits of a network and the pre-activations of its hidden layers, ``(sample, unit)``."""
    pre_below = post_below = x
    hidden = []
    for t in LAYERS:
        shape = (SIZES[t + 1], SIZES[t])
        values = saved[f"{params}.scaffold[{t}].weight"][seed]
        weight = matrix(saved, values, f"['state'].net.structure.scaffold[{t}].weight", shape, seed)
        bank = f"['state'].net.structure.bank.layers[{t}]"
        patch = f"{params}.patches[{t}]"
        pre = post_below @ weight.T + saved[f"{params}.scaffold[{t}].bias"][seed]
        if patched and f"{patch}.weight" in saved:
            values = saved[f"{patch}.weight"][seed]
            pre = pre + post_below @ matrix(saved, values, f"{bank}.topology", shape, seed).T
        elif patched and f"{bank}.unit" in saved:
            units, active = saved[f"{bank}.unit"][seed], saved[f"{bank}.active"][seed]
            targets = saved[f"{bank}.targets"][seed]
            for k in np.flatnonzero(active):
                kind, slot = ("high", k) if k < len(targets) else ("low", k - len(targets))
                w1, b1, w2, b2 = (saved[f"{patch}.{kind}.{n}"][seed, slot] for n in ("w1", "b1", "w2", "b2"))
                if kind == "high":
                    inputs, outputs, scale = pre_below[:, [units[k]]], targets[slot], 0.3
                else:
                    sources = saved[f"{bank}.sources"][seed, slot]
                    inputs, outputs, scale = post_below[:, sources], [units[k]], 0.5
                pre[:, outputs] += scale * (np.maximum(inputs @ w1.T + b1, 0) @ w2.T + b2)
        pre_below, post_below = pre, np.maximum(pre, 0)
        hidden.append(pre)
    return hidden.pop(), hidden


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(scores.argmax(axis=1) == labels))


def loss(scores: np.ndarray, labels: np.ndarray) -> float:
    top = scores.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(scores - top).sum(axis=1)) + top[:, 0]
    return float(np.mean(log_sum - scores[np.arange(len(labels)), labels]))


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits")


@pytest.fixture(scope="module")
def dense(base: Finished, patched: Runner) -> Finished:
    """Dense patches on the scaffolds of ``base``."""
    return patched("dense", scaffolds=base.scaffolds, patch_kind="dense")


# One run, looked at from all sides.


SETTLED = {"density": 0.02, "allocation": "uniform", "activation": "relu", "scaffold_epochs": 20, "lr": 1e-3}
"""What ``auto`` means for a fresh scaffold."""


def test_every_output_is_there(base: Finished) -> None:
    names = {p.name for p in base.folder.iterdir()}
    assert names == {
        ".lock", "config.json", "provenance.json", "metrics.jsonl", "summary.json", "checkpoints",
        "accuracy.png", "extrema.png", "contributions.png",
    }  # fmt: skip
    summary = base.summary
    assert summary["experiment"] == "patched_density"
    asked = dataclasses.asdict(base.config)
    stored = read_json(base.folder / "config.json")
    for name, value in asked.items():
        value = list(value) if isinstance(value, tuple) else value
        value = SETTLED.get(name) if value is None else value
        if name in ("checkpoint_fingerprint", "total_patches", "watch_output", "prune_patches", *UNSAID):
            assert name not in stored and not value  # stored only where they say something
        elif name not in ("out", "resume", "overwrite", "data_dir", "from_checkpoint"):
            assert stored[name] == value
    assert summary["config"] == stored, "where a run lies is no part of its results"
    provenance = summary["provenance"]
    assert re.fullmatch(r"[0-9a-f]{40}", provenance["git"]["commit"]) if provenance["git"] else True
    assert {"jax", "jaxlib", "flax", "optax", "numpy", "python"} <= set(provenance["versions"])
    assert provenance["device"]["platform"] == jax.default_backend() and provenance["time_utc"]
    assert provenance["dataset"] == "digits"
    assert set(summary["timing"]) == {"compile_seconds", "run_seconds"}
    assert all(value > 0 for value in summary["timing"].values())
    assert base.returned["seeds"] == summary["seeds"]


@pytest.mark.parametrize("name", ["accuracy", "extrema", "contributions"])
def test_plots_decode_and_show_something(name: str, base: Finished) -> None:
    image = matplotlib.image.imread(base.folder / f"{name}.png")
    assert image.shape[0] > 300 and image.shape[1] > 500
    grey = image[..., :3].mean(axis=2)
    assert grey.std() > 0.02 and grey.max() == 1 and grey.min() < 0.5


def test_a_row_per_seed_and_epoch(base: Finished) -> None:
    expected = [(p, e, s) for p in ("scaffold", "patch") for e in (1, 2, 3) for s in SEEDS]
    assert [(r["phase"], r["epoch"], r["seed"]) for r in base.rows] == expected
    for row in base.rows:
        assert row["split"] == "validation"
        assert 0 <= row["accuracy"] <= 1 and 0 <= row["train_accuracy"] <= 1
        assert row["loss"] > 0 and row["train_loss"] > 0
        assert row["accuracy"] * 240 == pytest.approx(round(row["accuracy"] * 240), abs=1e-4)
        assert ("patch_norm" in row) == ("scaffold_drift" in row) == (row["phase"] == "patch")
    for seed in base.seeds:
        own = [r for r in base.rows if r["seed"] == seed["seed"] and r["phase"] == "patch"]
        assert seed["patch_norm"] == [r["patch_norm"] for r in own] and own[0]["patch_norm"] > 0
        assert 0 < own[0]["scaffold_drift"] < own[2]["scaffold_drift"] < 0.2
        assert seed["forgotten"] == pytest.approx(seed["scaffold_accuracy"] - seed["without_patches"])


def test_counts_are_what_the_topology_says(base: Finished) -> None:
    saved = arrays(base.folder)
    for i, seed in enumerate(base.seeds):
        scaffold = 0
        for t in LAYERS:
            rows = saved[f"['state'].net.structure.scaffold[{t}].weight.rows"][i]
            assert (rows < SIZES[t + 1]).sum() == WEIGHTS[t]
            scaffold += WEIGHTS[t]
        high, low = seed["extrema_high"], seed["extrema_low"]
        num_high, num_low = min(5, high[0]) + min(5, high[1]), min(5, low[1])
        patch = HIGH_MLP * num_high + LOW_MLP * num_low
        assert seed["seed"] == i
        assert seed["num_patches"] == num_high + num_low == len(seed["patches"])
        assert [p["kind"] for p in seed["patches"]].count("high") == num_high
        assert {p["nonzeros"] for p in seed["patches"]} <= {HIGH_MLP, LOW_MLP}
        assert sum(p["nonzeros"] for p in seed["patches"]) == patch
        bias = sum(SIZES[1:])
        assert seed["nonzeros"] == {
            "scaffold": scaffold, "bias": bias, "patch": patch, "total": scaffold + bias + patch,
        }  # fmt: skip
        assert seed["density"] == scaffold / DENSE_WEIGHTS and seed["patch_weights"] == patch
        assert num_low > 0, "a case that tests something"
    assert sum(sum(s["extrema_high"]) for s in base.seeds) > 0


@pytest.mark.parametrize("which", ["base", pytest.param("dense", marks=pytest.mark.slow)])
def test_accuracies_are_those_of_the_networks_saved(
    which: str, digits: data.Dataset, request: pytest.FixtureRequest
) -> None:
    finished: Finished = request.getfixturevalue(which)
    saved = arrays(finished.folder)
    x_test, y_test = standardised(digits, "test")
    x_val, y_val = standardised(digits, "val")
    for i, seed in enumerate(finished.seeds):
        scaffold, _ = logits(
            saved, "['extra']['kept']['scaffold']['state'].best_params", i, x_test, patched=False
        )
        final, _ = logits(saved, "['state'].best_params", i, x_test, patched=True)
        assert seed["scaffold_accuracy"] == pytest.approx(accuracy(scaffold, y_test), abs=1e-7)
        assert seed["patched_accuracy"] == pytest.approx(accuracy(final, y_test), abs=1e-7)
        assert seed["gain"] == seed["patched_accuracy"] - seed["scaffold_accuracy"]
        last, _ = logits(saved, "['state'].net.params", i, x_val, patched=True)
        row = next(r for r in finished.rows if (r["seed"], r["phase"], r["epoch"]) == (i, "patch", 3))
        assert row["accuracy"] == pytest.approx(accuracy(last, y_val), abs=1e-6)
        assert row["loss"] == pytest.approx(loss(last, y_val), rel=1e-5)


@pytest.mark.parametrize(("phase", "name"), [("scaffold", "scaffold_epoch"), ("patch", "patched_epoch")])
def test_selection_takes_the_best_validation_epoch(phase: str, name: str, base: Finished) -> None:
    for i, seed in enumerate(base.seeds):
        curve = [r["accuracy"] for r in base.rows if (r["seed"], r["phase"]) == (i, phase)]
        assert seed[name] == 1 + int(np.argmax(curve)), "the first of equals"


def test_extrema_are_those_of_the_training_images(base: Finished, digits: data.Dataset) -> None:
    saved = arrays(base.folder)
    x, _ = standardised(digits, "train")
    for i, seed in enumerate(base.seeds):
        _, hidden = logits(saved, "['extra']['kept']['scaffold']['state'].best_params", i, x, patched=False)
        means = [pre.mean(axis=0) for pre in hidden]
        high = [m > m.mean() + 2 * m.std(ddof=1) for m in means]
        assert seed["extrema_high"] == [int(h.sum()) for h in high]
        assert seed["extrema_low"] == [int((m < 0.1).sum()) for m in means]
        assert seed["extrema_nan"] == [0, 0]
        for patch in seed["patches"]:
            here = high if patch["kind"] == "high" else [m < 0.1 for m in means]
            assert here[patch["hidden_layer"]][patch["unit"]], "patches sit at extrema"


def test_contributions_are_the_accuracy_lost_without_the_patch(base: Finished, digits: data.Dataset) -> None:
    saved = arrays(base.folder)
    x, y = standardised(digits, "val")
    counts = [saved[f"['state'].net.structure.bank.layers[{t}].active"].shape[1] for t in (1, 2)]
    for i, seed in enumerate(base.seeds):
        whole = accuracy(logits(saved, "['state'].best_params", i, x, patched=True)[0], y)
        for patch in seed["patches"]:
            layer, slot = (1, patch["slot"]) if patch["slot"] < counts[0] else (2, patch["slot"] - counts[0])
            name = f"['state'].net.structure.bank.layers[{layer}].active"
            active = saved[name].copy()
            assert active[i, slot]
            active[i, slot] = False
            without = logits({**saved, name: active}, "['state'].best_params", i, x, patched=True)[0]
            assert patch["contribution"] == pytest.approx(whole - accuracy(without, y), abs=1e-6)


def test_aggregates_are_those_of_the_seeds(base: Finished) -> None:
    def column(name: str) -> list[float]:
        first, *rest = name.split(".")
        if name == "weights":
            return [s["nonzeros"]["scaffold"] + s["patch_weights"] for s in base.seeds]
        values = [s[first][rest[0]] if rest else s[first] for s in base.seeds]
        values = [sum(v) if isinstance(v, list) else v for v in values]
        return [v for v in values if v is not None]

    aggregate = base.summary["aggregate"]
    assert {"scaffold_accuracy", "patched_accuracy", "gain", "num_patches", "density", "extrema_high",
            "extrema_low", "nonzeros.scaffold", "nonzeros.bias", "nonzeros.patch", "nonzeros.total",
            "patch_weights"} <= set(aggregate)  # fmt: skip
    for name, a in aggregate.items():
        values = np.array(column(name), float)
        assert a["n"] == len(values) == 3 and a["not_finite"] == 0
        assert a["mean"] == pytest.approx(values.mean())
        assert a["std"] == pytest.approx(values.std(ddof=1))
        assert (a["median"], a["min"], a["max"]) == (np.median(values), values.min(), values.max())
        half = stats.t.ppf(0.975, 2) * values.std(ddof=1) / math.sqrt(3)
        assert a["ci95"] == pytest.approx([values.mean() - half, values.mean() + half])


@pytest.mark.slow
def test_the_terminal_shows_the_seeds_and_nothing_else(
    base: Finished, tmp_path: Path, xla_cache: Path, run_python: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    done: subprocess.CompletedProcess[str] = run_python(
        "-m", "experiments.patched_density", *as_flags({}), "--out", str(out), env=cache_variables(xla_cache)
    )
    assert (done.returncode, done.stderr) == (0, ""), "no progress bar where there is no terminal"
    lines = done.stdout.splitlines()
    assert lines.pop(0) == "digits: 3 seeds, scaffolds first, then patches"
    assert lines[0].startswith("digits, 64-24-16-10, protocol clean")
    for i, seed in enumerate(base.seeds):
        cells = lines[3 + i].split()
        assert cells[:2] == [str(i), f"{100 * seed['scaffold_accuracy']:.2f}"]
        assert cells[3] == f"{100 * seed['gain']:+.2f}"
    assert lines[6].split()[0] == "mean" and lines[7].startswith("95 %")
    assert re.fullmatch(r"compiled in .* s, ran for .* s; results in .*", lines[-1])
    for title in ("patches by contribution", "contribution of kinds", "patches and scaffold along training"):
        assert sum(line.startswith(title) for line in lines) == 1
    assert (out / "metrics.jsonl").read_bytes() == (base.folder / "metrics.jsonl").read_bytes()
    assert read_json(out / "summary.json")["seeds"] == base.seeds


def test_help_explains_every_flag(run_python: Callable[..., Any]) -> None:
    done = run_python("-m", "experiments.patched_density", "--help")
    text = re.sub(r"[\s│]+", " ", done.stdout)
    text = text.replace(" --no-watch-output", "")  # too long for the column: it stands on a line of its own
    assert done.returncode == 0 and done.stderr == ""
    fields = [field for field in dataclasses.fields(Config) if field.metadata.get("cli", True)]
    for field in fields:
        assert f" --{field.name.replace('_', '-')} " in text or f" --{field.name.replace('_', '-')}," in text
        # lines break behind hyphens, too
        assert re.sub(r"\s+", "", field.metadata["help"]) in text.replace(" ", "")
    assert "[epochs] [default: 30]" in text and "[in (0, 1]] [default: auto]" in text
    assert text.count("[default: ") >= len(fields)


# Runs against one another.


def scaffold_rows(finished: Finished) -> list[dict[str, Any]]:
    return [row for row in finished.rows if row["phase"] == "scaffold"]


@pytest.mark.slow
def test_a_seed_alone_is_its_row_among_others(base: Finished, patched: Runner) -> None:
    alone = patched("alone", num_seeds=1, seed=1)
    rows = [row for row in base.rows if row["seed"] == 1]
    for mine, theirs in zip(alone.rows, rows, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            # the order of sums inside a batched product may differ: 1e-5, or one image of 240
            tolerance = 1e-5 if name.endswith("loss") else 1 / 240 + 1e-6
            same = value == theirs[name] if isinstance(value, str) else abs(value - theirs[name]) <= tolerance
            assert same, (name, value, theirs[name])
    entry, other = alone.seeds[0], base.seeds[1]
    for name in ("seed", "extrema_high", "extrema_low", "num_patches", "nonzeros", "density"):
        assert entry[name] == other[name]
    mine, theirs = arrays(alone.folder), arrays(base.folder)
    assert mine.keys() == theirs.keys()
    for path, array in mine.items():
        if ".structure.scaffold" in path or ".bank." in path:
            np.testing.assert_array_equal(array[0], theirs[path][1])
        elif "params" in path:
            np.testing.assert_allclose(array[0], theirs[path][1], atol=1e-5)


def test_seeds_differ_from_one_another(base: Finished) -> None:
    rows = arrays(base.folder)["['state'].net.structure.scaffold[0].weight.cols"]
    assert len({row.tobytes() for row in rows}) == 3


@pytest.mark.parametrize(
    ("kind", "placement"),
    [
        pytest.param("mlp", "random", marks=pytest.mark.slow),
        pytest.param("dense", "least", marks=pytest.mark.slow),
        pytest.param("mlp", "least", marks=pytest.mark.slow),
        pytest.param("dense", "random", marks=pytest.mark.slow),
    ],
)
def test_placements_differ_in_the_place_only(
    kind: str, placement: str, base: Finished, patched: Runner, request: pytest.FixtureRequest
) -> None:
    at_extrema: Finished = base if kind == "mlp" else request.getfixturevalue("dense")
    # random mlp patches in a run of their own, the others on the scaffolds of the base run
    given = None if (kind, placement) == ("mlp", "random") else base.scaffolds
    other = patched(f"{kind}-{placement}", scaffolds=given, patch_kind=kind, placement=placement)
    assert scaffold_rows(other) == scaffold_rows(at_extrema)
    moved = 0
    for a, b in zip(at_extrema.seeds, other.seeds, strict=True):
        for name in ("seed", "scaffold_accuracy", "scaffold_epoch", "extrema_high", "extrema_low"):
            assert a[name] == b[name]
        assert a["num_patches"] == b["num_patches"] > 0
        assert a["nonzeros"] == b["nonzeros"]
        keys = ("kind", "hidden_layer", "nonzeros", "slot")
        assert [[p[k] for k in keys] for p in a["patches"]] == [[p[k] for k in keys] for p in b["patches"]]
        moved += sum(p["unit"] != q["unit"] for p, q in zip(a["patches"], b["patches"], strict=True))
    assert moved > 0


def test_dense_patches_are_connections_that_no_weight_had(dense: Finished) -> None:
    saved = arrays(dense.folder)
    for i, seed in enumerate(dense.seeds):
        positions = 0
        for t in (1, 2):
            structure = "['state'].net.structure"
            scaffold, bank = f"{structure}.scaffold[{t}].weight", f"{structure}.bank.layers[{t}]"
            taken = set(zip(*(saved[f"{scaffold}.{n}"][i] for n in ("rows", "cols")), strict=True))
            rows, cols = (saved[f"{bank}.topology.{n}"][i] for n in ("rows", "cols"))
            new = {(r, c) for r, c in zip(rows, cols, strict=True) if r < SIZES[t + 1]}
            assert not taken & new
            positions += len(new)
        # half of the layer above (8 of 16, 5 of 10) or below (12 of 24)
        halves = {("high", 0): 8, ("high", 1): 5, ("low", 1): 12}
        assert all(p["nonzeros"] == halves[p["kind"], p["hidden_layer"]] for p in seed["patches"])
        assert seed["nonzeros"]["patch"] == positions == sum(p["nonzeros"] for p in seed["patches"])


def without_test_results(finished: Finished) -> list[dict[str, Any]]:
    tested = ["scaffold_accuracy", "patched_accuracy", "gain", "gain_per_1000_weights"]
    tested += ["patched_accuracy_halves", "without_patches", "forgotten"]
    return [{k: v for k, v in seed.items() if k not in tested} for seed in finished.seeds]


def test_clean_sees_test_images_in_the_final_accuracy_only(
    base: Finished, patched: Runner, digits: data.Dataset
) -> None:
    rng = np.random.default_rng(0)
    x_test = rng.integers(0, 256, digits.x_test.shape, dtype=np.uint8)
    other = dataclasses.replace(digits, x_test=x_test, y_test=np.zeros_like(digits.y_test))
    swapped = patched("other-test-images", images=other)
    assert (swapped.folder / "metrics.jsonl").read_bytes() == (base.folder / "metrics.jsonl").read_bytes()
    mine, theirs = swapped.results(), base.results()
    assert mine["arrays"] == theirs["arrays"]
    assert without_test_results(swapped) == without_test_results(base)
    assert [s["patched_accuracy"] for s in swapped.seeds] != [s["patched_accuracy"] for s in base.seeds]


# Flags.


@pytest.fixture(scope="module")
def original(patched: Runner) -> Finished:
    """The original's protocol."""
    return patched("original", protocol="seed", extrema_samples=100)


def test_protocol_seed_reports_as_the_original(original: Finished) -> None:
    assert all(row["split"] == "test" for row in original.rows)
    for i, seed in enumerate(original.seeds):
        scaffold, patch = (
            [r["accuracy"] for r in original.rows if (r["seed"], r["phase"]) == (i, phase)]
            for phase in ("scaffold", "patch")
        )
        assert seed["scaffold_accuracy"] == pytest.approx(scaffold[-1], abs=1e-6)
        assert seed["patched_accuracy"] == pytest.approx(max(patch), abs=1e-6)
        assert seed["scaffold_epoch"] == 3
        assert seed["patched_epoch"] == 1 + int(np.argmax(patch))
        units = [(p["hidden_layer"], p["kind"], p["unit"]) for p in seed["patches"]]
        assert units == sorted(units, key=lambda u: (u[0] if u[1] == "low" else u[0] + 1, u[1], u[2]))


def test_protocol_seed_watches_test_images_for_extrema(original: Finished) -> None:
    whole = data.load("digits", validation_fraction=0)
    saved = arrays(original.folder)
    x, y = standardised(whole, "test")
    for i, seed in enumerate(original.seeds):
        scores, _ = logits(saved, "['extra']['kept']['scaffold']['state'].net.params", i, x, patched=False)
        assert seed["scaffold_accuracy"] == pytest.approx(accuracy(scores, y), abs=1e-6)
        _, hidden = logits(
            saved, "['extra']['kept']['scaffold']['state'].net.params", i, x[:100], patched=False
        )
        assert seed["extrema_low"] == [int((pre.mean(axis=0) < 0.1).sum()) for pre in hidden]


@pytest.mark.slow
def test_scaffold_phase_masks_end_with_a_dense_network(base: Finished, patched: Runner) -> None:
    free = patched("free", scaffolds=base.scaffolds, mask_mode="scaffold-phase", max_patches=0)
    saved = arrays(free.folder)
    for i, seed in enumerate(free.seeds):
        alive = sum(int((saved[f"['state'].best_params.scaffold[{t}].weight"][i] != 0).sum()) for t in LAYERS)
        assert seed["nonzeros"]["scaffold"] == alive > 0.8 * DENSE_WEIGHTS
        assert seed["nonzeros"]["patch"] == seed["num_patches"] == 0
        assert seed["density"] == alive / DENSE_WEIGHTS
        assert seed["gain_per_1000_weights"] is None
    assert scaffold_rows(free) == scaffold_rows(base)
    assert free.summary["aggregate"]["gain_per_1000_weights"]["n"] == 0


@pytest.mark.slow
def test_no_epochs_with_patches(base: Finished, patched: Runner) -> None:
    none = patched("no-patch-epochs", scaffolds=base.scaffolds, patch_epochs=0, patch_kind="dense")
    assert none.rows == scaffold_rows(base)
    assert [s["patched_epoch"] for s in none.seeds] == [0, 0, 0]
    assert [s["num_patches"] for s in none.seeds] == [s["num_patches"] for s in base.seeds]
    before = {k: none.results()[k] for k in ("rows", "seeds", "aggregate")}
    again = patched("no-patch-epochs", patch_epochs=0, patch_kind="dense", resume=True)
    assert {k: again.results()[k] for k in before} == before


@pytest.mark.slow
def test_a_scaffold_with_rate_zero_stays_bit_for_bit(base: Finished, patched: Runner) -> None:
    frozen = patched("frozen", scaffolds=base.scaffolds, lr_scaffold=0.0)
    saved = arrays(frozen.folder)
    for t in LAYERS:
        for leaf in ("weight", "bias"):
            before = saved[f"['extra']['kept']['scaffold']['state'].best_params.scaffold[{t}].{leaf}"]
            np.testing.assert_array_equal(saved[f"['state'].net.params.scaffold[{t}].{leaf}"], before)
    changed = arrays(base.folder)["['state'].net.params.scaffold[0].weight"]
    assert (changed != saved["['state'].net.params.scaffold[0].weight"]).any()
    moved = frozen.rows[-1]["train_loss"] != frozen.rows[-4]["train_loss"]
    assert moved, "the patches learn"


@pytest.mark.slow
def test_mnist(mnist_dir: Path, patched: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXNET_CACHE_DIR", str(tmp_path / "data"))
    run = patched(
        "mnist", dataset="mnist", data_dir=str(mnist_dir), sizes=None, density=0.02, num_seeds=2,
        scaffold_epochs=1, patch_epochs=1,
    )  # fmt: skip
    assert run.summary["sizes"] == [784, 256, 128, 10]
    assert len(read_rows(run.folder)) == 4
    for seed in run.seeds:
        assert seed["nonzeros"]["scaffold"] == 4014 + 655 + 25
        assert seed["patched_accuracy"] > seed["scaffold_accuracy"] > 0.2


# Networks that diverged.


def again(base: Finished, patched: Runner, name: str, scaffold: list[bool], state: list[bool]) -> Finished:
    """The finished run summed up once more, as if these networks had diverged before and with patches."""
    shutil.copytree(base.folder, patched.root / name)
    real = _patched_found.measure

    def measure(run: Any, task: Any, before: Any, after: Any, trained: Any) -> Any:
        before = before.replace(diverged=np.asarray(scaffold))
        return real(run, task, before, after.replace(diverged=np.asarray(state)), trained)

    with mock.patch.object(_patched_found, "measure", measure):
        return patched(name, resume=True)


def test_a_seed_that_diverged_is_in_no_mean(base: Finished, patched: Runner) -> None:
    """Its best values are finite, those of an earlier epoch: they count all the same as none."""
    found = again(base, patched, "one diverged", [False] * 3, [False, True, False])
    assert found.summary["diverged"] == [1] and [s["diverged"] for s in found.seeds] == [False, True, False]
    lost = found.seeds[1]
    assert lost["scaffold_accuracy"] == base.seeds[1]["scaffold_accuracy"], "it diverged with patches only"
    assert lost["patched_accuracy"] is lost["gain"] is None
    assert lost["patches"] and all(p["contribution"] is None for p in lost["patches"])
    kept = [base.seeds[0], base.seeds[2]]
    for name in ("scaffold_accuracy", "patched_accuracy", "gain", "density", "num_patches"):
        numbers = found.summary["aggregate"][name]
        assert (numbers["n"], numbers["not_finite"]) == (2, 1)
        assert numbers["mean"] == pytest.approx(np.mean([s[name] for s in kept]))
    assert found.seeds[0] == base.seeds[0]


@pytest.mark.slow
def test_when_all_diverged_there_are_no_numbers(base: Finished, patched: Runner, tmp_path: Path) -> None:
    summary = again(base, patched, "all diverged", [True] * 3, [True] * 3).summary
    assert summary["diverged"] == [0, 1, 2]
    assert all(numbers["mean"] is None and numbers["n"] == 0 for numbers in summary["aggregate"].values())
    ((_, _, rows),) = STUDY.tables(summary)
    assert all(set(row[1:4]) == {"-"} for row in rows)
    controls = patched_density_controls.CONTROLS
    arms = dict.fromkeys(patched_density_controls.ARMS, summary)
    groups = {"controls": arms, "headline": dict.fromkeys(patched_density_controls.HEADLINE, summary)}
    config = patched_density_controls.Config(doc=str(tmp_path / "doc.md"))
    controls.write(config, groups, lab.compare(arms, QUESTIONS))
    text = (tmp_path / "doc.md").read_text()
    assert shown_nan(text) == [] and f"Diverged: {3 * len(arms)} of {3 * len(arms)} networks (" in text


def test_the_document_of_the_controls(base: Finished, tmp_path: Path) -> None:
    """Every arm has its row, every question its verdict, and the numbers lie beside it."""
    controls = patched_density_controls.CONTROLS
    arms = dict.fromkeys(patched_density_controls.ARMS, base.summary)
    config = patched_density_controls.Config(doc=str(tmp_path / "doc.md"), num_seeds=3)
    controls.write(config, {"controls": arms}, lab.compare(arms, QUESTIONS))
    text, numbers = (tmp_path / "doc.md").read_text(), read_json(tmp_path / "doc.json")
    assert "python -m experiments.patched_density_controls --dataset mnist --num-seeds 3 --doc" in text
    mean = base.summary["aggregate"]["patched_accuracy"]["mean"]
    assert text.count(f"| {100 * mean:.2f} (") == len(arms)
    assert text.count("no verdict (3 pairs, 12 needed)") == 2 * len(QUESTIONS)
    assert shown_nan(text) == [] and "\n\n\n" not in text
    assert set(numbers["arms"]) == set(arms) and len(numbers["comparisons"]) == len(QUESTIONS)
    assert "patches" not in numbers["arms"]["mlp, extrema"]["seeds"][0]
