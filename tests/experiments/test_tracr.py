"""Circuits that are known: programs that Tracr (an extra) compiles into transformers."""

from __future__ import annotations

import numpy as np
import pytest

from experiments import _tracr

pytest.importorskip("tracr")


@pytest.mark.slow
@pytest.mark.parametrize("program", _tracr.PROGRAMS)
def test_ablation_finds_the_weights_of_a_program_among_distractors_and_chance_does_not(program):
    found = [_tracr.judged(program, seed) for seed in range(2)]
    assert all(one["right"] == 1 and one["loss"] < 0.1 * one["nothing"] for one in found)
    mean = {name: np.mean([one[name] for one in found]) for name in _tracr.SCORES}
    assert abs(mean["random"] - 0.5) <= 0.05
    # attribution by the loss is near chance here: what cancels looks useful by halves
    assert mean["exact ablation"] > mean["random"] + 0.1
    assert mean["exact ablation"] > max(mean["integrated gradients"], mean["gradient x w"])
