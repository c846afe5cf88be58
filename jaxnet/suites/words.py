"""The vocabulary of the token suites, and phrases of many samples at once."""

from __future__ import annotations

from typing import Any

import numpy as np

LETTERS = tuple("abcdefghijklmnop")
"""What rules and lists are about."""

NOUNS = ("cat", "dog", "cow", "pig"), ("cats", "dogs", "cows", "pigs")
"""Of one and of many."""

EITHER = ("sheep", "deer", "fish", "trout")
"""Nouns that do not say how many."""

TIMES = {"yesterday": "was", "today": "is", "tomorrow": "will"}
"""What a time asks of the verb."""

WORDS = (
    *(".", ";", "(", ")", ":", "?", "if", "then", "we", "know", "that", "not", "so", "have"),
    *("all", "are", "over", "yes", "no", "say", "the", "by", "is", "was", "will"),
    *("sometimes", *TIMES, *NOUNS[0], *NOUNS[1], *EITHER, *LETTERS),
)
"""The vocabulary: a token is the place of its word."""

VOCAB = len(WORDS)
"""Number of tokens."""

TOKEN = {word: token for token, word in enumerate(WORDS)}
"""The token of every word."""

Words = np.ndarray
"""``(n,)`` or ``(n, words)`` tokens on the host."""


def show(tokens: Any) -> str:
    """Tokens ``(time,)`` as words."""
    return " ".join(WORDS[int(token)] for token in np.asarray(tokens))


def phrase(n: int, *parts: str | Words) -> Words:
    """``(n, words)``: words that stand in all of them, separated by blanks, and words of each."""
    columns: list[Words] = []
    for part in parts:
        if isinstance(part, str):
            columns += [np.full((n, 1), TOKEN[word]) for word in part.split()]
        else:
            columns.append(part.reshape(n, -1))
    return np.concatenate(columns, axis=1)


def shuffled(rng: np.random.Generator, n: int, parts: list[Words]) -> Words:
    """Phrases of one length, in an order of their own for each sample."""
    order = rng.permuted(np.tile(np.arange(len(parts)), (n, 1)), axis=1)
    return np.take_along_axis(np.stack(parts, 1), order[..., None], 1).reshape(n, -1)


def one_of(rng: np.random.Generator, n: int, words: tuple[str, ...]) -> Words:
    """``(n,)``, any of these words."""
    return np.array([TOKEN[word] for word in words])[rng.integers(len(words), size=n)]


def different_letters(rng: np.random.Generator, n: int, number: int) -> Words:
    """``(n, number)`` different letters."""
    every = np.array([TOKEN[letter] for letter in LETTERS])
    return rng.permuted(np.tile(every, (n, 1)), axis=1)[:, :number]


def pick(values: Words, place: np.ndarray) -> Words:
    """Of every sample the value at its place."""
    return values[np.arange(len(values)), place]
