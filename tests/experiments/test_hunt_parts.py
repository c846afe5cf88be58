"""The parts of a seed hunt: portfolio, densities, rankings, the Pareto front."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments._hunt_plan import make_groups, make_jobs
from experiments._hunt_rows import promising_ranges
from experiments.seed_hunt import Config
from jaxnet.allocation import allocate
from jaxnet.sweep import default_chunk, make_family
from jaxnet.sweep.jobs import Stage, portfolio, spaced
from jaxnet.sweep.selection import pareto_front
from jaxnet.sweep.table import CRITERIA, leading, network_id, ranked, where
from tests.experiments.hunts import as_table, row

CLEAN = Config()


def test_the_portfolio_is_that_of_the_original_in_six_programs() -> None:
    groups = {name: [a[1:-1] for a in group] for name, group in portfolio("later", 784, 10).items()}
    assert groups == {
        "direct": [()] * 5,
        "one-hidden": [(16,), (32,), (64,), (128,), (256,), (512,)],
        "wide": [(1024,), (2048,)],
        "funnel": [(128, 32), (128, 64), (256, 32), (256, 64), (256, 128), (512, 32), (512, 64), (512, 128)],
        "deep-funnel": [(a, b, c) for a, b in ((256, 128), (512, 128), (512, 256)) for c in (32, 64)],
        "column": [(64, 64, 64, 64, 64)],
    }
    every = [a for group in portfolio("later", 784, 10).values() for a in group]
    assert every[:5] == [(784, 10), (784, 20), (784, 30), (784, 40), (784, 50)]
    assert len(every) == len(set(every)) == 28
    assert all((a[0], a[-1]) == (784, 10) for a in every[5:])
    jobs, left_out = make_jobs(Stage("single", 0, 5, (0.02,)), portfolio("later", 784, 10), range(20), CLEAN)
    assert len(jobs) == 6 and sum(len(job.numbers) for job in jobs) == 28 * 20 and not left_out
    for job in jobs:
        family = job.grid.family()
        for architecture, density in job.grid.members:
            counts = allocate(architecture, density)
            assert all(n <= c for n, c in zip(counts, family.capacities, strict=True))
            assert all(n <= w for n, w in zip(architecture, family.sizes, strict=True))


def test_the_described_portfolio_has_eighteen() -> None:
    every = [a[1:] for group in portfolio("described", 784, 10).values() for a in group]
    assert len(every) == len(set(every)) == 18
    assert every[:5] == [(10,), (20,), (30,), (40,), (50,)]
    assert (256, 128, 10) in every and every[-1] == (512, 256, 128, 64, 10) and (512, 10) in every


def test_networks_are_numbered_seed_by_seed() -> None:
    groups = dict(list(portfolio("later", 64, 10).items())[:2])
    jobs, left_out = make_jobs(Stage("coarse", 0, 3, (0.005, 0.1)), groups, range(7, 9), CLEAN)
    direct, hidden = jobs
    # 0.005 of 64 x 10 are 3.2 weights; of 16 x 10 less than one, of 32 x 10 one
    assert len(direct.numbers) == 2 * 10 and len(hidden.numbers) == 2 * 11
    assert left_out == [("64-16-10", 0.005)]
    assert [direct.grid.network(i) for i in (0, 1, 9, 10)] == [
        ((64, 10), 0.005, 7),
        ((64, 10), 0.1, 7),
        ((64, 50), 0.1, 7),
        ((64, 10), 0.005, 8),
    ]
    for job in jobs:
        for number in job.numbers:
            architecture, density, seed = job.grid.network(number)
            names = {"architecture": "-".join(map(str, architecture)), "density": density, "seed": seed}
            assert job.find(names) == number
    bernoulli = Config(protocol="seed")
    jobs, left_out = make_jobs(
        Stage("coarse", 0, 3, (0.005,)), portfolio("later", 64, 10), range(1), bernoulli
    )
    assert not left_out, "a Bernoulli mask may leave a layer empty"


def test_what_rewires_networks_finds_no_padding() -> None:
    data: Any = SimpleNamespace(num_features=64, num_classes=10, name="digits")
    groups = make_groups(Config(portfolio="later", method="set"), data)
    assert len(groups) == 28 and all(len(group) == 1 for group in groups.values())


def test_spaced() -> None:
    assert spaced(0.001, 0.1, 3) == (0.001, 0.01, 0.1)
    assert spaced(0.005, 0.05, 5) == (0.005, 0.00889, 0.0158, 0.0281, 0.05)


def test_promising_ranges() -> None:
    def found(*cases: tuple[float, float, float]) -> list[str]:
        rows = [row(0, a, density=d, patchability=p) for d, a, p in cases]
        return promising_ranges(as_table(rows))

    assert found() == []
    assert found((0.01, 0.15, 0.2)) == ["moderate"]
    assert found((0.01, 0.149, 0.9), (0.01, 0.9, 0.199)) == [], "one network, not two"
    assert found((0.1, 0.5, 0.3), (0.001, 0.5, 0.3)) == ["ultra", "dense"]
    assert found((0.005, 0.5, 0.3), (0.05, 0.5, 0.3)) == ["moderate", "dense"]
    assert found((0.5, 0.5, 0.3), (0.0001, 0.5, 0.3)) == [], "beyond all ranges"


levels = st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.5, 1.0, math.nan])


@pytest.mark.parametrize(
    ("platform", "number", "sizes", "chunk"),
    [
        ("cpu", 1, (784, 128, 10), 64),
        ("cpu", 16, (784, 128, 10), 1024),
        ("cpu", 2, (784, 1024, 1024, 10), 64),  # a step of 64 such networks leaves the caches
        ("gpu", 1, (784, 128, 10), 2048),
        ("gpu", 8, (784, 1024, 1024, 10), 16384),
    ],
)
def test_default_chunk_keeps_the_devices_busy(
    platform: str, number: int, sizes: tuple[int, ...], chunk: int
) -> None:
    devices: Any = [SimpleNamespace(platform=platform)] * number
    assert default_chunk(devices, make_family([sizes], [0.02], "uniform"), 64) == chunk


@given(
    values=st.lists(st.tuples(levels, levels, st.sampled_from([0.1, 0.2])), max_size=24),
    chunk=st.integers(1, 7),
    top_k=st.integers(1, 4),
)
def test_the_best_call_by_call_are_the_best_of_all(
    values: list[tuple[float, float, float]], chunk: int, top_k: int
) -> None:
    """In whatever order calls come; equal ones by seed, what is not finite never."""
    rows = [row(s, a, patchability=p, density=d) for s, (a, p, d) in enumerate(values)]
    best = as_table([])
    for first in reversed(range(0, len(rows), chunk)):
        both = as_table([*best.to_pylist(), *rows[first : first + chunk]])
        best = both.take(leading(both, top_k, 0.15, "stage", "density"))
    for criterion in CRITERIA:
        count = [r for r in rows if math.isfinite(r[criterion])]
        if criterion != "accuracy":
            count = [r for r in count if r["accuracy"] >= 0.15]
        scopes: list[Any] = [((None, None), count)]
        scopes += [(("s", d), [r for r in count if r["density"] == d]) for d in (0.1, 0.2)]
        for scope, among in scopes:
            expected = sorted(among, key=lambda r: (-r[criterion], r["seed"]))[:top_k]
            found = ranked(where(best, stage=scope[0], density=scope[1]), criterion, top_k, 0.15).to_pylist()
            assert [network_id(r) for r in found] == [network_id(r) for r in expected]


@given(st.lists(st.tuples(st.integers(1, 6), st.sampled_from([0.1, 0.2, 0.3, 0.4])), max_size=12))
def test_pareto_front(points: list[tuple[int, float]]) -> None:
    weights, accuracy = [w for w, _ in points], [a for _, a in points]
    front = [points[i] for i in pareto_front(np.array(weights, int), np.array(accuracy, float))]
    better = {
        (w, a) for w, a in points if not any((v <= w and b >= a) and (v < w or b > a) for v, b in points)
    }
    assert front == sorted(better)
