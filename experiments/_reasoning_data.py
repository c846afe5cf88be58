"""The suites of ``experiments.reasoning_circuits`` as one set of samples of one length."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import suites
from jaxnet.data.sequences import Sequences, padded
from jaxnet.keys import key_of


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of all suites, those of the first suite first; filled up on the right, where no answer counts.

    Attributes:
      names: of the suites.
      train: ``(suite * samples, time)``.
      test: ``(suite * test samples, time)``, others.
      control: as many controls of the test samples.
      fingerprint: of all of them.
    """

    names: tuple[str, ...]
    train: Sequences
    test: Sequences
    control: Sequences
    fingerprint: str

    @property
    def name(self) -> str:
        """For readers."""
        return f"{len(self.names)} token suites"

    @property
    def length(self) -> int:
        """Tokens of a sample."""
        return self.train.x.shape[1]


def draw(names: Sequence[str], seed: int, train: int, test: int) -> Samples:
    """Draws all suites.

    Args:
      names: of the suites.
      seed: decides the samples, with NumPy's version: the fingerprint tells.
      train: samples of every suite to learn from, none of them among those to judge by.
      test: samples of every suite to judge by.
    """
    known = {name: number for number, name in enumerate(suites.SUITES)}
    parts: dict[str, list[Sequences]] = {"train": [], "test": [], "control": []}
    for name in names:
        key = jax.random.fold_in(key_of(seed), known[name])
        judged = suites.suite(name, jax.random.fold_in(key, 1), test)
        learned = suites.suite(name, jax.random.fold_in(key, 0), train, apart_from=judged.data)
        parts["train"].append(learned.data)
        parts["test"].append(judged.data)
        parts["control"].append(judged.control)
    length = max(part.x.shape[1] for part in parts["train"])
    made = {
        what: jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *(padded(one, length) for one in of))
        for what, of in parts.items()
    }
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(made):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return Samples(tuple(names), **made, fingerprint=digest.hexdigest()[:16])


def of_suites(data: Sequences, number: int, most: int | None = None) -> Sequences:
    """``(suite, sample, time)``: the samples, or the first so many, of every suite."""
    return jax.tree.map(lambda a: a.reshape(number, -1, a.shape[-1])[:, :most], data)


def load(config: Any) -> Samples:
    """The samples of a configuration."""
    return draw(config.suite_names, config.data_seed, config.samples, config.test_samples)
