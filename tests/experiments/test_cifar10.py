"""The studies of CIFAR-10 on tiny digits, and augmentation in every study."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet
from experiments import (
    _conv_add,
    _conv_net,
    _conv_run,
    cifar10,
    cifar10_conv,
    cifar10_growth,
    cifar10_mlp,
    cifar10_patched,
    patched_density,
    seed_hunt,
)
from jaxnet import lab
from jaxnet.lab import run_main
from jaxnet.statistics import aggregate
from tests.experiments.patched import compiling_once, read_json

DIGITS = ["--dataset", "digits", "--kernel", "dense"]
PATCHED = [
    *(*DIGITS, "--hidden", "16-12", "--density", "0.3", "--total-patches", "6", "--num-seeds", "2"),
    *("--headline-seeds", "2", "--headline-hidden", "12", "--test-batches", "2"),
    *("--scaffold-epochs", "2", "--patch-epochs", "2"),
]


CONV = "--dataset digits --blocks 4,6-8,8 --hidden 64 --base-share 0.5 --place-seeds 0"


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
        (
            "cifar10_growth",
            "--dataset digits --hidden 16 --densities 0.1,0.9 --added 0.5",
            "16 at 0.9 would grow",
        ),
        ("cifar10_conv", "--dataset digits --arms sparse,dropout", "--arms must be some of"),
        ("cifar10_conv", "--dataset digits --blocks 12-x", "--blocks must be channels joined by"),
        ("cifar10_conv", "--dataset cliff --augment none", "cliff has samples of"),
        ("cifar10_conv", "--dataset digits --blocks 4,4,4,4", "need images of at least 16 pixels a side"),
        ("cifar10_conv", "--dataset digits --blocks 400,400,400", "multiply-adds an image, over 3000000"),
        (
            "cifar10_conv",
            "--dataset digits --blocks 12,24 --base-share 0.99",
            "weights for the convolutions, which have room",
        ),
        (
            "cifar10_conv",
            "--dataset digits --blocks 12,24,48-48 --weights 500 --added 450 --base-share 0.01",
            "without any weight",
        ),
        ("cifar10_conv", "--dataset digits --added 60000", "must be fewer than --weights 59000"),
        (
            "cifar10_conv",
            f"{CONV} --arms growing --weights 2000 --added 1500",
            "--added 1500: growth can be 32 to 288 weights here",
        ),
        (
            "cifar10_conv",
            f"{CONV} --arms channels --weights 2000 --added 1500",
            "--added 1500: channels can be 1 to 1010 weights here",
        ),
        (
            "cifar10_conv",
            f"{CONV} --arms patches --weights 2000 --added 5",
            "--added 5: patches can be at least 9 weights here",
        ),
        ("cifar10_conv", f"{CONV} --arms pruned --weights 30000", "density"),
        (
            "cifar10_conv",
            "--dataset digits --arms none --place-blocks 12,24 --place-base-share 0.99",
            "which have room",
        ),
        ("cifar10_conv", f"{CONV} --arms sparse --weights 2000 --added 9 --kernel csr", "--kernel csr"),
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
    page = (tmp_path / "a.md").read_text()
    assert "71.29" in page
    assert "chosen by trials" not in page, "that is told of the flags of the project's own documents only"


def test_counts_of_a_convolutional_network_by_hand() -> None:
    base, image = ((2,), (3, 4)), (8, 8, 1)
    assert _conv_net.kernels(base, 1) == [(3, 3, 1, 2), (3, 3, 2, 3), (3, 3, 3, 4)]
    assert _conv_net.features(base, image) == 2 * 2 * 4
    assert _conv_net.multiply_adds(base, image) == 64 * 18 + 16 * 54 + 16 * 108
    shapes = _conv_net.layers(base, image, (5,), 10)
    assert shapes[3:] == [(16, 5), (5, 10)]
    counts = _conv_net.counts_of(shapes, 150, 0.6)
    assert sum(counts[:3]) == 90 and sum(counts[3:]) == 60
    # axes: 9, 11, 13 of the kernels; the first is full, the others share the rest 11 : 13
    assert counts[:3] == [18, 33, 39]
    smaller = _conv_net.small_like(((10,), (20,)), image, (30,), 10, 2000)
    assert sum(np.prod(shape) for shape in _conv_net.layers(smaller[0], image, smaller[1], 10)) <= 2000


@pytest.mark.slow
def test_a_convolutional_base_with_what_is_added_has_as_many_weights(tmp_path: Path, xla_cache: Path) -> None:
    flags = "--blocks 4,6-8 --hidden 16 --weights 700 --base-share 0.3 --added 120 --every 9 --num-seeds 2"
    flags += " --epochs 1 --more-epochs 1 --batch-size 32 --place-seeds 0"
    arms = "rigl,fewer,frozen,patches,channels,growing"
    out = documented(
        cifar10_conv.CONTROLS, ["--dataset", "digits", *flags.split(), "--arms", arms], tmp_path, xla_cache
    )
    seeds = {p.parent.name: read_json(p)["arms"]["network"]["seeds"] for p in out.glob("*/summary.json")}
    weights = {name: {seed["weights"] for seed in found} for name, found in seeds.items()}
    assert weights["rigl"] == weights["channels"] == weights["growing"] == {700}
    assert weights["fewer"] == weights["frozen"] == {580}
    # patches are whole: two extrema of 16 units, each low one reads 16 of 32 features
    assert all(580 + 2 * 16 <= patched <= 700 for patched in weights["patches"])
    assert seeds["channels"][0]["base_weights"] == seeds["fewer"][0]["base_weights"] + 120
    assert len({seed["watched"] for found in seeds.values() for seed in found}) > 2
    assert "## What each contributes" in (tmp_path / "a.md").read_text()


def test_the_convolutional_networks_keep_to_sixty_thousand_whatever_is_counted() -> None:
    config, image = _conv_run.ArmConfig(), (32, 32, 3)
    base = _conv_run.base_of(config.blocks)
    shapes = _conv_net.layers(base, image, config.hidden, 10)
    weights = sum(_conv_net.counts_of(shapes, config.weights, config.base_share))
    channels, new = sum(map(sum, base)), 16  # 16 hidden units come with a bias each
    assert weights == config.weights
    assert weights + 4 * channels + config.hidden[0] + 10 + new <= 60_000  # scale, shift, mean, variance
    assert _conv_net.multiply_adds(base, image) <= 3_000_000
    small = _conv_net.small_like(base, image, config.hidden, 10, config.weights)
    count = sum(np.prod(shape) for shape in _conv_net.layers(small[0], image, small[1], 10))
    assert 0.99 * config.weights < count <= config.weights


@pytest.mark.slow
def test_patches_of_a_head_with_one_hidden_layer_are_as_many_weights_as_are_to_be_added() -> None:
    image, key = (4, 4, 1), jaxnet.keys.key_of(0)
    model = _conv_net.model_of(((3,),), image, (16,), 10)
    counts = [
        27,
        60,
        160,
    ]  # the layer of the outputs is complete, as by Erdős–Rényi: only low patches have room
    net = jaxnet.Net.of(
        *_conv_net.draw(model, counts, image, dense=False, key=key), jaxnet.dual_rate_adam(1, 1)
    )
    config = _conv_run.ArmConfig(weights=300, added=40, adds="patches")
    means = jnp.arange(16.0)
    found = jaxnet.signals.by_rank(means, 0.3)
    after = _conv_add.with_patches(config, net, (found,), key=key)
    told = _conv_add.count(after.params, after.structure)
    number = 40 // (6 + 5)  # half of 12 features and of 10 outputs, each
    assert told["patch_weights"] == number * 6 and told["weights"] == 27 + 60 + 160 + number * 6
    bank = after.structure["head"].bank
    places = [
        (p["kind"], p["unit"]) for p in jaxnet.patches.placed(jax.device_get(bank)) if p["kind"] == "low"
    ]
    assert places == [("low", 0), ("low", 1), ("low", 2)]
    # at a unit that is dead they must have something to wake it up with
    assert float(jnp.abs(after.params["head"].patches[0].weight).sum()) > 0


def test_what_three_seeds_cannot_say_is_not_asked_of_holms_correction() -> None:
    judged = {
        n: [q for q in cifar10_conv.questions(cifar10_conv.Config(num_seeds=n)) if q.primary] for n in (3, 12)
    }
    assert {q.where for q in judged[3]} == {"places"}
    assert {q.where for q in judged[12]} == {"arms", "places"}


def test_growth_is_compared_with_what_differs_by_growth_alone(tmp_path: Path) -> None:
    config = cifar10_growth.Config(hidden=("16",), densities=(0.1, 0.2))
    asked = cifar10_growth.questions(config)
    pairs = {(q.first.split(": ")[1], q.second.split(": ")[1]): q.primary for q in asked}
    changes = cifar10_growth.ARMS
    for first, second in cifar10_growth.GROWTH:
        assert pairs[first, second]
        differ = {k: (changes[first].get(k), changes[second].get(k)) for k in ("exchange", "change")}
        assert differ["exchange"][0] == differ["exchange"][1] and differ["change"] == (None, "none")
    assert not pairs["growing", "static"]
    difference = {": growing": 0.01, ": growing, without RigL": -0.01}
    found = []
    for q in asked:
        d = next((value for end, value in difference.items() if q.first.endswith(end)), 0.0)
        found.append(lab.Comparison(q, d, [d - 0.005, d + 0.005], 0.001, 6, 12, p_holm=0.01 if d else 1.0))
    values = cifar10_growth.values(config, {}, found)
    assert list(values["signs"].values()) == [[-1, -1], [1, 1]]
    cifar10_growth.draw_map(tmp_path / "map.png", config, {}, found)
    assert (tmp_path / "map.png").stat().st_size > 1000


def test_the_original_is_compared_with_random_places_and_with_none() -> None:
    asked = cifar10_patched.questions(cifar10_patched.Config())
    first = [q for q in asked if q.first == "original"]
    assert {q.second for q in first} <= set(cifar10_patched.ORIGINAL) and len(first) == 2
    assert cifar10_patched.Config().headline_seeds >= 12
    # extrema are found at the end of the scaffold: runs that share one look by the same thresholds
    assert "detector" in cifar10_patched.ORIGINAL_SHARED


def test_one_page_from_numbers_by_hand(tmp_path: Path) -> None:
    def arm(*means: float, **more: Sequence[float]) -> dict[str, Any]:
        return {"seeds": [], "aggregate": {n: aggregate(v) for n, v in {"accuracy": means, **more}.items()}}

    def pair(first: str, second: str, difference: float, verdict: str) -> dict[str, Any]:
        ends = [difference - 0.001, difference + 0.001]
        told = {"first": first, "second": second, "measure": "accuracy", "title": ""}
        return {**told, "difference": difference, "ci95": ends, "n": 12, "verdict": verdict, "where": ""}

    def write(name: str, **found: Any) -> None:
        (tmp_path / f"{name}.json").write_text(json.dumps(found))

    def main() -> dict[str, Any]:
        return cifar10.main(cifar10.Config(results=str(tmp_path), doc=str(tmp_path / "cifar10.md")))

    assert main()["open"] == len(cifar10.PAGES)
    arms = {"0.01: set": arm(0.55, 0.57, accuracy_peers=(0.58, 0.6)), "0.01: rigl": arm(0.5, 0.52)}
    write("cifar10_mlp", experiment="cifar10_mlp", config={"densities": [0.01]}, arms=arms, comparisons=[])
    found = [
        pair("128 at 0.01: growing, without RigL", "128 at 0.01: static", -0.02, "worse"),
        pair("128 at 0.01: growing", "128 at 0.01: RigL", 0.01, "better"),
    ]
    write("cifar10_growth", experiment="cifar10_growth", config={}, arms={}, comparisons=found)
    seconds = {"csr": {"median": 0.6}, "torch_masked": {"median": 12.0}}
    by_density = {"0.01": {"seconds_per_epoch": seconds, "ratios": {"csr_vs_torch_masked": {"median": 20.0}}}}
    write("cifar10_speed", sizes=[3072, 1024, 512, 10], by_density=by_density, config={})
    programs = [{"bytes_per_call": 2**30, "bytes_allowed": 2**31}]
    timing = {"peak_bytes": 2**31}
    write("cifar10_sweep", plan=[{"programs": programs}], networks={"trained": 128}, timing=timing)
    apart = [
        pair(f"{kind}, extrema", f"{kind}, {other}", 0.01, "better")
        for kind in ("patches", "channels")
        for other in ("random", "least")
    ]
    write("cifar10_conv_places", experiment="cifar10_conv", config={}, arms={}, comparisons=apart)
    ratios = {"loop_over_one": {"median": 1.25}, "many_over_one": {"median": 5.5}}
    write("cifar10_conv_speed", config={"num_seeds": 8}, found={"ratios": ratios})
    values = main()
    text = (tmp_path / "cifar10.md").read_text()
    assert values["open"] == len(cifar10.PAGES) - 6
    assert "channels at extrema against least places | +1.00" in text
    assert "at least 1 | 1.25 |" in text and "8 seeds of it in one program" in text and "| 5.50 |" in text
    assert "best 0.01: set: 56.00 %" in text and "best test epoch 59.00 %" in text and "at least 56.2" in text
    assert "better in 0, worse in 1 of 1 cells" in text and "better in 1, worse in 0 of 1 cells" in text
    assert "20.0 (0.60 and 12.00 s an epoch; 100 epochs: 1 and 20 min)" in text
    assert "128 seeds" in text and "a call 1024 of 2048 MiB; the process at its peak 2048 MiB" in text
    assert "cifar10_patched.md`: not run yet" in text and "large_network --ways csr,torch_masked" in text
