"""Token suites: a plain solver has every answer, n-grams have none and see no difference to the controls."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from jaxnet import suites
from jaxnet.data import Sequences
from jaxnet.suites import EITHER, NOUNS, SUITES, TIMES

N = 4
"""Words of an n-gram."""


def premises(words: list[str], size: int, number: int) -> Iterator[list[str]]:
    return (words[size * i : size * (i + 1)] for i in range(number))


def conditional(words: list[str]) -> list[str]:
    rules = {p[1]: p[3] for p in premises(words, 5, 3)}
    kind, fact = words[words[:-1].index("so", len(words) - 4) - 3 :][:2]
    if kind == "know":
        return [rules[fact]] if fact in rules else []
    return [a for a, b in rules.items() if b == fact]


def chained(words: list[str]) -> list[str]:
    step = {p[1]: p[3] for p in premises(words, 6, 4)}
    middle = step[words[-2]]
    return [step[middle]] if middle in step else []


def ordered(words: list[str]) -> list[str]:
    over = {(p[1], p[3]) for p in premises(words, 6, 4)}
    first, second = words[25], words[27]

    def above(a: str, b: str) -> bool:
        return (a, b) in over or any(above(c, b) for x, c in over if x == a)

    return ["yes"] if above(first, second) else ["no"] if above(second, first) else []


def induced(words: list[str]) -> list[str]:
    letters, asked = words[:12], words[-1]
    return [letters[letters.index(asked) + 1]] if asked in letters else []


def agreed(words: list[str]) -> list[str]:
    noun = words[11:][3]
    return [] if noun in EITHER else ["are" if noun in NOUNS[1] else "is"]


SOLVE: dict[str, Callable[[list[str]], list[str]]] = {
    "copy": lambda words: [words[len(words) - 9]],
    "induction": induced,
    "modus ponens": conditional,
    "contrapositive": conditional,
    "syllogism": chained,
    "transitivity": ordered,
    "agreement": agreed,
    "tense": lambda words: [TIMES[words[10:][3]]] if words[10:][3] in TIMES else [],
}
"""What the rule says after so many words: one answer or none."""


def questions(drawn: Sequences) -> Iterator[tuple[list[str], str]]:
    """The words before every answer, and the answer."""
    x, y, weight = (np.asarray(a) for a in (drawn.x, drawn.y, drawn.weight))
    for row, place in zip(*np.nonzero(weight), strict=True):
        yield suites.show(x[row, : place + 1]).split(), suites.show(y[row, place : place + 1])


@pytest.mark.parametrize("name", SUITES)
def test_a_solver_has_every_answer_and_the_rule_has_none_for_controls(name, key):
    drawn, grammar = suites.suite(name, key, 100), SUITES[name]
    asked = list(questions(drawn.data))
    assert len(asked) == 100 * grammar.counted
    for words, answer in asked:
        assert SOLVE[name](words) == [answer], words
        assert answer in grammar.answers
    right = [SOLVE[name](words) == [answer] for words, answer in questions(drawn.control)]
    assert not np.any(np.all(np.reshape(right, (100, grammar.counted)), 1))
    if name != "copy":  # whose rule has an answer, another one
        assert not any(SOLVE[name](words) for words, _ in questions(drawn.control))
    again = suites.suite(name, key, 100)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(drawn), jax.tree.leaves(again)))  # noqa: B905


def windows(tokens: np.ndarray) -> Iterator[tuple[int, ...]]:
    row = tokens.tolist()
    for n in range(1, N + 1):
        yield from zip(*(row[i:] for i in range(n)), strict=False)


def guess(seen: dict[tuple[int, ...], Counter[int]], context: list[int]) -> int:
    """The most frequent answer after the longest context that has been seen."""
    while (place := tuple(context)) not in seen:
        context = context[1:]
    return seen[place].most_common(1)[0][0]


def contexts(drawn: Sequences) -> Iterator[tuple[list[int], int]]:
    """The words before every answer, and the answer."""
    x, y, weight = (np.asarray(a) for a in (drawn.x, drawn.y, drawn.weight))
    for row, place in zip(*np.nonzero(weight), strict=True):
        yield x[row, max(0, place - N + 2) : place + 1].tolist(), int(y[row, place])


@pytest.mark.parametrize("name", SUITES)
def test_n_grams_neither_answer_nor_tell_samples_from_controls(name, key):
    fit, judged = (suites.suite(name, jax.random.fold_in(key, i), n) for i, n in enumerate((2000, 1000)))
    seen: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for context, answer in contexts(fit.data):
        for start in range(len(context) + 1):
            seen[tuple(context[start:])][answer] += 1
    right = [guess(seen, context) == answer for context, answer in contexts(judged.data)]
    assert np.mean(right) <= SUITES[name].chance + 0.05
    # the odds of all n-grams of a sentence, as if independent
    counts = [Counter(w for row in whole(side) for w in windows(row)) for side in (fit.data, fit.control)]
    scores = [
        np.array(
            [
                sum(np.log((counts[0][w] + 1) / (counts[1][w] + 1)) for w in windows(row))
                for row in whole(side)
            ]
        )
        for side in (judged.data, judged.control)
    ]
    told = (np.mean(scores[0] > 0) + np.mean(scores[1] <= 0)) / 2
    assert told <= 0.55


def whole(drawn: Sequences) -> np.ndarray:
    """Samples with their last answer."""
    return np.concatenate([np.asarray(drawn.x), np.asarray(drawn.y)[:, -1:]], 1)


def test_wrong_input_is_one_line(key):
    with pytest.raises(ValueError, match=r"unknown suite 'modus tollens': choose one of copy, induction"):
        suites.suite("modus tollens", key, 1)
    with pytest.raises(ValueError, match="at least 1 sample: 0"):
        suites.suite("copy", key, 0)


def test_what_is_judged_by_is_not_drawn_to_learn_from():
    def sentences(drawn: Any) -> set[bytes]:
        return {row.tobytes() for row in np.asarray(drawn.x)}

    keys = jax.random.split(jax.random.key(3))
    judged = suites.suite("tense", keys[0], 64)
    many = suites.suite("tense", keys[1], 20_000)
    assert len(sentences(many) & sentences(judged)) > 10, "there are 36,864 of them"
    fresh = suites.suite("tense", keys[1], 20_000, apart_from=judged.data)
    assert not sentences(fresh) & sentences(judged)
    assert fresh.x.shape == many.x.shape and fresh.weight.sum() == many.weight.sum()
    np.testing.assert_array_equal(fresh.control.x, many.control.x)
