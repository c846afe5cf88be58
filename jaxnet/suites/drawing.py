"""The suites: how their samples are drawn, and the controls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.data.sequences import Sequences
from jaxnet.errors import check_choice
from jaxnet.suites.words import (
    EITHER,
    LETTERS,
    NOUNS,
    TIMES,
    TOKEN,
    Words,
    different_letters,
    one_of,
    phrase,
    pick,
    shuffled,
)
from jaxnet.types import Array, Float, Int, Key


class Drawn(NamedTuple):
    """Samples of a suite.

    Attributes:
      x: ``(n, time)`` int32.
      y: ``(n, time)``, the token after each; where ``weight`` is 1, the answers.
      weight: ``(n, time)``, 1 at the places whose answers count, else 0.
      control: as many controls, of the same shapes.
    """

    x: Int[Array, "n time"]
    y: Int[Array, "n time"]
    weight: Float[Array, "n time"]
    control: Sequences

    @property
    def data(self) -> Sequences:
        """The samples, to train on or to judge by."""
        return Sequences(self.x, self.y, self.weight)


@dataclass(frozen=True)
class Grammar:
    """How the samples of a suite are made (static).

    Attributes:
      draw: ``draw(rng, n, control) -> (n, time + 1)`` tokens.
      answers: words that an answer can be, all equally likely.
      counted: how many words are answers; the last word is one.
      apart: words from one of them to the next.
    """

    draw: Callable[[np.random.Generator, int, bool], Words]
    answers: tuple[str, ...]
    counted: int = 1
    apart: int = 1

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1 / len(self.answers)


def suite(name: str, key: Key, n: int, *, apart_from: Sequences | None = None) -> Drawn:
    """Draws ``n`` samples of a suite and as many controls.

    Args:
      name: one of :data:`SUITES`.
      key: decides the samples, together with the version of NumPy.
      n: how many.
      apart_from: samples of this suite, such as those to judge by, that are not drawn again. Some suites
        have few sentences: of ``tense`` there are 36,864, and 65,536 samples hold most of any others.

    Raises:
      ValueError: an unknown suite, no samples, or hardly any sentences beside those not to be drawn.
    """
    check_choice("suite", name, SUITES)
    if n < 1:
        raise ValueError(f"a suite needs at least 1 sample: {n}")
    grammar = SUITES[name]
    rng = np.random.default_rng(np.asarray(jax.random.bits(key, (4,), jnp.uint32)).tolist())
    words, others = (grammar.draw(rng, n, control) for control in (False, True))
    if apart_from is not None:
        words = _fresh(name, rng, words, np.asarray(apart_from.x))
    samples = _sequences(words, grammar)
    return Drawn(samples.x, samples.y, samples.weight, _sequences(others, grammar))


def _fresh(name: str, rng: np.random.Generator, words: Words, seen: Words, turns: int = 16) -> Words:
    """The sentences that are not among those seen, filled up with others."""
    known, n = {row.tobytes() for row in seen.astype(np.int32)}, len(words)
    for _ in range(turns):
        new = np.array([row.tobytes() not in known for row in words[:, :-1].astype(np.int32)])
        if new.all():
            return words
        words = np.concatenate([words[new], SUITES[name].draw(rng, n - int(new.sum()), False)])
    raise ValueError(f"suite {name} has hardly any sentence beside the {len(known)} that are not to be drawn")


def _sequences(tokens: Words, grammar: Grammar) -> Sequences:
    weight = np.zeros((len(tokens), tokens.shape[1] - 1), np.float32)
    weight[:, -1 - grammar.apart * np.arange(grammar.counted)] = 1
    whole = jnp.asarray(tokens, jnp.int32)
    return Sequences(whole[:, :-1], whole[:, 1:], jnp.asarray(weight))


def copy(rng: np.random.Generator, n: int, control: bool) -> Words:
    """``( a1 .. a8 ) a1 .. a8``: the letters again; all eight count.

    Letters are drawn independently. Control: the second eight are drawn anew.
    """
    first, other = (np.stack([one_of(rng, n, LETTERS) for _ in range(8)], 1) for _ in range(2))
    return phrase(n, "(", first, ")", other if control else first)


def induction(rng: np.random.Generator, n: int, control: bool) -> Words:
    """``a1 .. a12 . ; q -> r . ; q -> r ..``: ``q`` stood among the first nine, and ``r`` behind it there.

    The twelve letters differ; four are asked for, none of which is the answer to another. Control: they are
    the four letters that stand nowhere, and each answer is drawn from those that could be one.
    """
    letters = different_letters(rng, n, 16)
    apart = [place for place in combinations(range(9), 4) if min(np.diff(place)) > 1]
    place = rng.permuted(np.array(apart)[rng.integers(len(apart), size=n)], axis=1)  # (n, question)
    asked = letters[:, 12:] if control else np.take_along_axis(letters, place, 1)
    told = rng.integers(9, size=place.shape) if control else place
    answers = np.take_along_axis(letters, told + 1, 1)
    asking = [phrase(n, ". ;", asked[:, i], answers[:, i]) for i in range(4)]
    return phrase(n, letters[:, :12], *asking)


def modus_ponens(rng: np.random.Generator, n: int, control: bool) -> Words:
    """Three rules ``if A then B ;``, then of two of them ``we know A . so have -> B ;``.

    All letters of the rules differ. Control: the facts are consequents, ``B`` (affirming the consequent), and
    each answer is drawn from the other consequents.
    """
    return _conditional(rng, n, control, "we know", ". so have", forward=True)


def contrapositive(rng: np.random.Generator, n: int, control: bool) -> Words:
    """Three rules ``if A then B ;``, then of two of them ``know not B . so have not -> A ;``.

    All letters of the rules differ. Control: the facts are ``not A`` (denying the antecedent), and each
    answer is drawn from the other antecedents.
    """
    return _conditional(rng, n, control, "know not", ". so have not", forward=False)


def _conditional(
    rng: np.random.Generator, n: int, control: bool, fact: str, end: str, *, forward: bool
) -> Words:
    letters = different_letters(rng, n, 6)
    before, after = letters[:, :3], letters[:, 3:]
    given, wanted = (before, after) if forward else (after, before)
    parts = [phrase(n, "if", before[:, i], "then", after[:, i], ";") for i in range(3)]
    for asked in rng.permuted(np.tile(np.arange(3), (n, 1)), axis=1).T[:2]:
        known = pick(wanted if control else given, asked)
        other = (asked + 1 + rng.integers(2, size=n)) % 3
        answer = pick(wanted, other if control else asked)
        parts.append(phrase(n, fact, known, end, answer, ";"))
    return phrase(n, *parts)[:, :-1]


def syllogism(rng: np.random.Generator, n: int, control: bool) -> Words:
    """Two chains ``all A are B . ;``, ``all B are C . ;``, in any order; of both ``so all A are -> C ;``.

    All six letters differ. Control: the second premise of both is ``all C are B . ;`` (the undistributed
    middle), and each answer is ``C`` of a chain that is drawn.
    """
    letters = different_letters(rng, n, 6).reshape(n, 2, 3)
    premises = []
    for chain in range(2):
        a, b, c = letters[:, chain].T
        premises += [phrase(n, "all", a, "are", b, ". ;")]
        premises += [phrase(n, "all", c if control else b, "are", b if control else c, ". ;")]
    parts, first = [shuffled(rng, n, premises)], rng.integers(2, size=n)
    for asked in (first, 1 - first):
        told = rng.integers(2, size=n) if control else asked
        parts.append(
            phrase(n, "so all", pick(letters[..., 0], asked), "are", pick(letters[..., 2], told), ";")
        )
    return phrase(n, *parts)[:, :-1]


def transitivity(rng: np.random.Generator, n: int, control: bool) -> Words:
    """``that A over B . ;`` for neighbours of ``A B C D E``, in any order; ``so B over D : ? -> yes``.

    Or no, where ``D over B`` is asked. ``B`` and ``D`` stand once on either side, so that both premises
    between them are needed. Control: ``A B``, ``B C``, ``D C``, ``E D``, which leave it open; the answer is
    drawn.
    """
    a, b, c, d, e = different_letters(rng, n, 5).T
    pairs = [(a, b), (b, c), *([(d, c), (e, d)] if control else [(c, d), (d, e)])]
    premises = shuffled(rng, n, [phrase(n, "that", x, "over", y, ". ;") for x, y in pairs])
    turned = rng.integers(2, size=n) == 1
    first, second = np.where(turned, d, b), np.where(turned, b, d)
    drawn = rng.integers(2, size=n) == 1
    answer = np.where(drawn if control else turned, TOKEN["no"], TOKEN["yes"])
    return phrase(n, premises, "so", first, "over", second, ": ?", answer)


def agreement(rng: np.random.Generator, n: int, control: bool) -> Words:
    """``; say the N by the N by the N -> is`` or ``are``: the first noun says how many, the others distract.

    Before it stands a clause whose first noun does not say (``sheep``), with a verb that is drawn. Control:
    the two clauses change places, so that it is the asked one that does not say; its answer is drawn.
    """
    many = rng.integers(2, size=n)
    number = np.array([[TOKEN[noun] for noun in nouns] for nouns in NOUNS])
    clear = number[many, rng.integers(len(NOUNS[0]), size=n)]
    right = np.where(many == 1, TOKEN["are"], TOKEN["is"])
    said = (clear, right), (one_of(rng, n, EITHER), one_of(rng, n, ("is", "are")))
    others = (*NOUNS[0], *NOUNS[1], *EITHER)
    clauses = [
        phrase(n, "; say the", noun, "by the", one_of(rng, n, others), "by the", one_of(rng, n, others), verb)
        for noun, verb in (said if control else said[::-1])
    ]
    return phrase(n, *clauses)


def tense(rng: np.random.Generator, n: int, control: bool) -> Words:
    """``; : say T the N by the N -> was``, ``is`` or ``will``, by ``T``: yesterday, today, tomorrow.

    Before it stands a clause of ``sometimes``, with a verb that is drawn. Control: the two clauses change
    places, and the answer is drawn.
    """
    times, verbs = tuple(TIMES), tuple(TIMES.values())
    which = rng.integers(len(times), size=n)
    clear, right = (np.array([TOKEN[word] for word in words])[which] for words in (times, verbs))
    said = (clear, right), (np.full(n, TOKEN["sometimes"]), one_of(rng, n, verbs))
    nouns = (*NOUNS[0], *EITHER)
    clauses = [
        phrase(n, "; : say", time, "the", one_of(rng, n, nouns), "by the", one_of(rng, n, nouns), verb)
        for time, verb in (said if control else said[::-1])
    ]
    return phrase(n, *clauses)


SUITES: dict[str, Grammar] = {
    "copy": Grammar(copy, LETTERS, counted=8),
    "induction": Grammar(induction, LETTERS, counted=4, apart=4),
    "modus ponens": Grammar(modus_ponens, LETTERS, counted=2, apart=8),
    "contrapositive": Grammar(contrapositive, LETTERS, counted=2, apart=9),
    "syllogism": Grammar(syllogism, LETTERS, counted=2, apart=6),
    "transitivity": Grammar(transitivity, ("yes", "no")),
    "agreement": Grammar(agreement, ("is", "are")),
    "tense": Grammar(tense, ("was", "is", "will")),
}
"""The suites by name; their docstrings say what they ask, and what their controls are."""
