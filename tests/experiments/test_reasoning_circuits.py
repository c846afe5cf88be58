"""``experiments.reasoning_circuits``: wrong input, rules, samples, a small run killed and continued."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import jaxnet
from experiments import _reasoning_data, _reasoning_kinds, _reasoning_run, reasoning_circuits
from jaxnet import suites
from tests.experiments.stopped import stopped_and_continued
from tests.experiments.wrong_input import assert_refused


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--heads", "3"], "--heads must divide --width: 3 heads, width 32"),
        (["--heads", "32"], "a head needs an even number of them"),
        (["--windows", "full,top-0"], "k of top-k attention must be at least 1: 0"),
        (["--windows", "4,400"], "window of layer 1 must be at most the length"),
        (["--windows", "4"], "windows must be as many as layers"),
        (["--windows", "wide,full"], "'wide' is neither full, a number of tokens, nor top-NUMBER"),
        (["--suites", "copy,logic"], "--suites: unknown suite 'logic'"),
        (["--suites", "copy"], "--suites must be two or more"),
        (["--last", "copy"], "--last and --protect must differ: copy"),
        (["--suites", "copy,agreement"], "--last tense must be one of the suites"),
        (["--steps", "70"], "--steps must be a multiple of 50: 70"),
        (["--fraction", "1"], "--fraction must be below 1"),
        (["--budgets", "2,4"], "--budgets must be different numbers from 3 to 6"),
        (["--look", "5000"], "--look must be at most --samples: 5000, 4096"),
        (["--parts", "3"], "--parts must divide a perceptron's 128 units: 3"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(flags, said, tmp_path, capsys):
    study = reasoning_circuits.STUDY
    few = [] if "5000" in flags else ["--samples", "16", "--test-samples", "2"]
    assert_refused(study.main, study.config, [*flags, *few], said, tmp_path / "run", capsys)


def test_names_known_before_jax_are_those_of_the_library():
    assert tuple(suites.SUITES) == _reasoning_kinds.SUITES


@pytest.mark.parametrize("rule", ["attention first", "MLP first", "uniform"])
@pytest.mark.parametrize("budget", [3, 4])
def test_every_rule_spends_the_budget_exactly(rule, budget):
    attention, perceptron = _reasoning_kinds.bits_by_kind(rule, budget, 4, 8)
    assert (4 * attention + 8 * perceptron) / 12 == budget
    assert {attention, perceptron} <= set(_reasoning_kinds.BITS)


def test_samples_of_all_suites_have_one_length_and_no_answer_where_they_are_filled_up():
    made = _reasoning_data.draw(("copy", "tense"), 3, 6, 4)
    again, other = (_reasoning_data.draw(("copy", "tense"), seed, 6, 4) for seed in (3, 4))
    assert made.fingerprint == again.fingerprint != other.fingerprint
    parts = _reasoning_data.of_suites(made.train, 2, 5)
    assert parts.x.shape == (2, 5, made.length)
    short = suites.suite("copy", suites_key(3), 1).x.shape[1]
    assert not np.any(np.asarray(parts.weight)[0, :, short:]) and np.all(parts.weight.sum(-1) > 0)
    answers = np.asarray(parts.y)[np.asarray(parts.weight) > 0]
    assert {suites.WORDS[token] for token in answers} <= {*suites.LETTERS, "was", "is", "will"}


def test_every_suite_is_learned_from_its_own_samples_of_two_as_well():
    config = reasoning_circuits.Config(suites=("copy", "tense"), samples=8, look=4, per_suite=2, num_seeds=1)
    run: Any = SimpleNamespace(
        config=config, dataset=_reasoning_data.draw(config.suite_names, 0, 8, 2), seeds=range(1),
        keys=jaxnet.keys.keys_of(range(1)), key_data=jaxnet.keys.key_of(0),
        compiled=lambda what, function, *args, **options: function,
    )  # fmt: skip
    made = _reasoning_run.Reasoning(run, reasoning_circuits.make_spec(config, run.dataset.length))
    for suite in (0, 1):  # one alone each: all but the last, then the last one
        rows = np.asarray(made.batches([suite], 8, 0).indices)
        assert rows.min() >= 8 * suite and rows.max() < 8 * (suite + 1)
    assert np.asarray(made.batches([0, 1], 4, 0).indices).max() < 8 + 4


def drawn_from(name: str, words: list[str]) -> set[str]:
    """The words among which the last answer of a control is drawn, from those before it."""
    at = [i for i, word in enumerate(words) if word in ("if", "all")]
    known = len(words) - 1 - words[::-1].index("know") if "know" in words else 0
    match name:
        case "induction":
            return set(words[1:10])
        case "modus ponens":
            return {words[i + 3] for i in at} - {words[known + 1]}
        case "contrapositive":
            return {words[i + 1] for i in at} - {words[known + 2]}
        case "syllogism":  # all A are B, all C are B: half of the answers are of the chain that is asked for
            left = {words[i + 1]: words[i + 3] for i in at[:4]}
            asked = words[at[-1] + 1]
            mine = {word for word in left if left[word] == left[asked]} - {asked}
            return mine | {"another"}
    return set(suites.SUITES[name].answers)


@pytest.mark.parametrize("name", suites.SUITES)
def test_the_best_guess_on_controls_is_one_over_the_words_that_are_drawn_from(name):
    control = suites.suite(name, suites_key(1), 60).control
    answers = np.asarray(control.y)[:, -1]
    number = round(1 / _reasoning_kinds.CONTROL[name])
    for x, y in zip(control.x, answers, strict=True):
        words, answer = suites.show(x).split(), suites.show([y])
        found = drawn_from(name, words)
        assert len(found) == number and (answer in found or "another" in found)
    assert len(set(answers.tolist())) >= number / 2


def suites_key(seed: int) -> Any:
    """A key."""
    return jaxnet.keys.key_of(seed)


@pytest.mark.slow
def test_a_small_run_killed_and_continued_ends_with_the_same(tmp_path: Path, monkeypatch: Any) -> None:
    config = reasoning_circuits.Config(
        suites=("copy", "agreement", "tense"), width=8, heads=2, layers=1, num_seeds=2, samples=64,
        test_samples=16, steps=50, last_steps=50, shuffled_steps=50, look=4, chunks=4, nodes=2,
        budgets=(3,), out=str(tmp_path / "whole"), doc=str(tmp_path / "reasoning.md"),
    )  # fmt: skip
    study = reasoning_circuits.STUDY
    # while suites are protected, and while circuits are found
    whole, found = stopped_and_continued(study.main, config, (4, 8), tmp_path / "killed", monkeypatch)
    assert (tmp_path / "reasoning.md").read_text().startswith("# Circuits of reasoning")
    assert {*_reasoning_kinds.ARMS, "random circuits", "moved: circuit"} <= set(whole["arms"])
    for part in ("arms", "overlaps", "dependencies", "bits"):
        assert json.dumps(found[part]) == json.dumps(whole[part])
