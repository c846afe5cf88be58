"""``experiments.growth_or_hunt``: budgets and halving by hand, wrong input, and (slow) a small comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments import growth_or_hunt
from experiments._growth_or_hunt_run import rungs, survivors
from jaxnet.lab import run_main

SMALL = ["--dataset", "digits", "--density", "0.1", "--added", "200", "--iterations", "3", "--epochs", "4"]

WRONG = [
    (["--hidden", "24-x,32"], "--hidden must be sizes joined by '-', for instance 256-128: '24-x'"),
    (["--hidden", "24-16"], "--hidden must be different hidden layers, at least two"),
    ([*SMALL, "--hidden", "24-16,8"], "--hidden 8: 64-8-10 has room for 592 weights only"),
    ([*SMALL, "--hidden", "24,25,26,27,28"], "epochs are too few to hunt 5 architectures, which takes 10"),
]


@pytest.mark.parametrize(("flags", "said"), WRONG)
def test_wrong_input_is_one_line(flags: list[str], said: str, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        given = flags if "--dataset" in flags else [*SMALL, *flags]
        run_main(growth_or_hunt.CONTROLS.main, growth_or_hunt.Config, [*given, "--out", str(out)])
    assert stopped.value.code == 2 and not out.exists()
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


def test_the_hunt_may_spend_what_growth_spends() -> None:
    cost = growth_or_hunt.cost_of(growth_or_hunt.Config(), 784, 10)
    assert cost.weights == (2101, 2701, 3301, 3901) and cost.sizes == (784, 64, 32, 10)
    assert cost.epochs_at_the_end == 12004 * 10 // 3901 == 30
    assert cost.flops(1000) == 6 * 12004 * 10 * 1000
    for many, budget in ((8, 30), (3, 6), (2, 4)):
        ladder = rungs(many, budget)
        spent = sum(
            n * (end - start) for (n, end), (_, start) in zip(ladder, [(0, 0), *ladder], strict=False)
        )
        assert spent == budget and ladder[-1][0] == 1


def test_halving_keeps_the_better_half_of_every_seed() -> None:
    ladder = rungs(4, 12)
    assert ladder == [(4, 1), (2, 2), (1, 8)]
    a, b, c, d = (np.zeros((8, 2)) for _ in range(4))
    a[:, 0], b[:, 0] = 0.5, (0.4, *[0.6] * 7)  # seed 0: b overtakes a on the second rung
    a[:, 1], b[:, 1], c[:, 1], d[:, 1] = 0.1, 0.2, np.nan, (0.3, *[0.0] * 7)  # d falls back, c diverged
    assert survivors([a, b, c, d], ladder).tolist() == [1, 1]


@pytest.mark.slow
def test_a_small_comparison(tmp_path: Path) -> None:
    doc = tmp_path / "growth_or_hunt.md"
    flags = [
        *SMALL,
        "--num-seeds",
        "12",
        "--hidden",
        "24-16,32",
        "--out",
        str(tmp_path / "out"),
        "--doc",
        str(doc),
    ]
    run_main(growth_or_hunt.CONTROLS.main, growth_or_hunt.Config, flags)
    text = doc.read_text()
    assert "growth − a hunt by successive halving" in text and "no verdict" not in text
    assert "operations" in text and "24-16" in text
