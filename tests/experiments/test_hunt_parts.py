"""The parts of a seed hunt: portfolio, densities, what is kept, the Pareto front."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments._hunt_kept import CRITERIA, Kept, Network, kept_files, order
from experiments._hunt_plan import Stage, make_jobs, network_id, portfolio, promising_ranges, spaced
from experiments._hunt_plots import pareto_front
from experiments._hunt_setup import default_chunk
from jaxnet.masks import allocate
from jaxnet.nn.params import Params, Structure
from jaxnet.structure import LayerParams
from jaxnet.topology import Topology


def test_the_portfolio_is_that_of_the_original_in_six_programs() -> None:
    groups = {g.name: [a[1:-1] for a in g.architectures] for g in portfolio(784, 10)}
    assert groups == {
        "direct": [()] * 5,
        "one-hidden": [(16,), (32,), (64,), (128,), (256,), (512,)],
        "wide": [(1024,), (2048,)],
        "funnel": [(128, 32), (128, 64), (256, 32), (256, 64), (256, 128), (512, 32), (512, 64), (512, 128)],
        "deep-funnel": [(a, b, c) for a, b in ((256, 128), (512, 128), (512, 256)) for c in (32, 64)],
        "column": [(64, 64, 64, 64, 64)],
    }
    every = [a for g in portfolio(784, 10) for a in g.architectures]
    assert every[:5] == [(784, 10), (784, 20), (784, 30), (784, 40), (784, 50)]
    assert len(every) == len(set(every)) == 28
    assert all((a[0], a[-1]) == (784, 10) for a in every[5:])
    jobs, left_out = make_jobs(Stage("single", 0, 5, (0.02,)), portfolio(784, 10), range(20), "uniform")
    assert len(jobs) == 6 and sum(job.size for job in jobs) == 28 * 20 and not left_out
    for job in jobs:
        family = job.family()
        for architecture, density in job.members:
            counts = allocate(architecture, density)
            assert all(n <= c for n, c in zip(counts, family.capacities, strict=True))
            assert all(n <= w for n, w in zip(architecture, family.sizes, strict=True))


def test_networks_are_numbered_seed_by_seed() -> None:
    jobs, left_out = make_jobs(
        Stage("coarse", 0, 3, (0.005, 0.1)), portfolio(64, 10)[:2], range(7, 9), "uniform"
    )
    direct, hidden = jobs
    # 0.005 of 64 x 10 are 3.2 weights; of 16 x 10 less than one, of 32 x 10 one
    assert direct.size == 2 * 10 and hidden.size == 2 * 11
    assert left_out == [((64, 16, 10), 0.005)]
    assert [direct.network(i) for i in (0, 1, 9, 10)] == [
        ((64, 10), 0.005, 7),
        ((64, 10), 0.1, 7),
        ((64, 50), 0.1, 7),
        ((64, 10), 0.005, 8),
    ]
    for job in jobs:
        for index in range(job.size):
            architecture, density, seed = job.network(index)
            row = {"architecture": "-".join(map(str, architecture)), "density": density, "seed": seed}
            assert job.find(row) == index
    jobs, left_out = make_jobs(Stage("coarse", 0, 3, (0.005,)), portfolio(64, 10), range(1), "bernoulli")
    assert not left_out, "a Bernoulli mask may leave a layer empty"


def test_spaced() -> None:
    assert spaced(0.001, 0.1, 3) == (0.001, 0.01, 0.1)
    assert spaced(0.005, 0.05, 5) == (0.005, 0.00889, 0.0158, 0.0281, 0.05)


def test_promising_ranges() -> None:
    def row(density: float, accuracy: float, patchability: float) -> dict[str, Any]:
        return {"density": density, "accuracy": accuracy, "patchability": patchability}

    assert promising_ranges([]) == []
    assert promising_ranges([row(0.01, 0.15, 0.2)]) == ["moderate"]
    assert promising_ranges([row(0.01, 0.149, 0.9), row(0.01, 0.9, 0.199)]) == [], "one network, not two"
    assert promising_ranges([row(0.1, 0.5, 0.3), row(0.001, 0.5, 0.3)]) == ["ultra", "dense"]
    assert promising_ranges([row(0.005, 0.5, 0.3), row(0.05, 0.5, 0.3)]) == ["moderate", "dense"]
    assert promising_ranges([row(0.5, 0.5, 0.3), row(0.0001, 0.5, 0.3)]) == [], "beyond all ranges"


def make_row(seed: int, accuracy: float, patchability: float, density: float = 0.1) -> dict[str, Any]:
    return {
        "seed": seed,
        "architecture": "3-2",
        "density": density,
        "stage": "single",
        "accuracy": accuracy,
        "patchability": patchability,
        "efficiency": 7 * accuracy - patchability,
    }


def make_network(seed: int) -> Network:
    """A network that says which seed it is."""
    rows, ptr = np.array([0], np.int32), np.array([0, 1, 1], np.int32)
    topology = Topology(rows, np.array([1], np.int32), ptr, (2, 3))  # type: ignore[arg-type]
    layer = LayerParams(np.array([seed], np.float32), np.zeros(2, np.float32))  # type: ignore[arg-type]
    return Params((layer,)), Structure.of((topology,))


levels = st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.5, 1.0, math.nan])


@pytest.mark.parametrize(
    ("platform", "number", "chunk"),
    [("cpu", 1, 128), ("cpu", 2, 128), ("cpu", 16, 1024), ("gpu", 1, 2048), ("gpu", 8, 16384)],
)
def test_default_chunk_keeps_the_devices_busy(platform: str, number: int, chunk: int) -> None:
    devices: Any = [SimpleNamespace(platform=platform)] * number
    assert default_chunk(devices) == chunk


@given(
    values=st.lists(st.tuples(levels, levels, st.sampled_from([0.1, 0.2])), max_size=24),
    chunk=st.integers(1, 7),
    top_k=st.integers(1, 4),
)
def test_kept_are_the_best_and_a_kill_loses_none(
    values: list[tuple[float, float, float]],
    chunk: int,
    top_k: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    out: Path = tmp_path_factory.mktemp("kept")
    rows = [make_row(seed, *value) for seed, value in enumerate(values)]
    kept = Kept(top_k, min_accuracy=0.15)
    for first in range(0, len(rows), chunk):
        part = rows[first : first + chunk]
        if kept.offer(part, lambda chosen, first=first: [make_network(first + i) for i in chosen]):  # type: ignore[misc]
            kept.save(out)
            kept.forget()
        assert kept.networks.keys() == kept.ids()
        # killed before this call's rows are on disk, or after: the file holds what the rows need
        for on_disk in (rows[:first], rows[: first + chunk]):
            again = Kept(top_k, min_accuracy=0.15)
            again.rank(on_disk)
            again.load(out)
            assert again.missing() == [] and again.networks.keys() == again.ids()
            for name, (params, _) in again.networks.items():
                assert name == f"single/3-2/{name.split('/')[2]}/{int(params.scaffold[0].weight[0])}"
    for criterion in CRITERIA:
        count = [r for r in rows if math.isfinite(r[criterion])]
        if criterion != "accuracy":
            count = [r for r in count if r["accuracy"] >= 0.15]
        for scope, among in (
            [(("single", d), [r for r in count if r["density"] == d]) for d in (0.1, 0.2)]
            + [((None, None), count)]
        ):  # fmt: skip
            best = sorted(among, key=lambda r: order(r, criterion))[:top_k]
            assert [network_id(r) for r in kept.best(criterion, *scope)] == [network_id(r) for r in best]


def test_what_several_processes_keep_comes_together(tmp_path: Path) -> None:
    rows = [make_row(seed, (7 * seed % 10) / 10, 0.1) for seed in range(10)]
    for process in range(3):
        kept = Kept(2, 0.15, process)
        mine = rows[process::3]
        kept.offer(mine, lambda chosen, mine=mine: [make_network(mine[i]["seed"]) for i in chosen])  # type: ignore[misc]
        kept.save(tmp_path)
    assert kept_files(tmp_path) == ["kept-0001.npz", "kept-0002.npz", "kept.npz"]
    together = Kept(2, 0.15)
    together.rank(rows)
    together.load(tmp_path)
    assert together.missing() == [] and together.networks.keys() == together.ids()
    assert [row["seed"] for row in together.best("accuracy")] == [7, 4]  # 0.9 and 0.8


def test_networks_that_the_file_lacks_are_named(tmp_path: Path) -> None:
    kept = Kept(1, 0.0)
    kept.offer([make_row(3, 0.5, 0.1)], lambda chosen: [make_network(3)])
    kept.save(tmp_path)
    (tmp_path / "kept.npz").write_bytes((tmp_path / "kept.npz").read_bytes()[:-30])
    again = Kept(1, 0.0)
    again.rank([make_row(3, 0.5, 0.1)])
    again.load(tmp_path)
    assert [row["seed"] for row in again.missing()] == [3]


@given(st.lists(st.tuples(st.integers(1, 6), st.sampled_from([0.1, 0.2, 0.3, 0.4])), max_size=12))
def test_pareto_front(points: list[tuple[int, float]]) -> None:
    weights, accuracy = [w for w, _ in points], [a for _, a in points]
    front = [points[i] for i in pareto_front(weights, accuracy)]
    better = {
        (w, a) for w, a in points if not any((v <= w and b >= a) and (v < w or b > a) for v, b in points)
    }
    assert front == sorted(better)
