"""What a decoder is made from, and how many parameters that makes."""

from __future__ import annotations

import dataclasses
import operator
import re
from typing import Any

MLP_FACTOR = 4
"""Hidden units of a block's perceptron per unit of the width."""


@dataclasses.dataclass(frozen=True)
class TopK:
    """Attention to the ``k`` largest scores of the past, the token itself included (static).

    Of equal scores the earlier token's counts first.
    """

    k: int

    def __post_init__(self) -> None:
        """Raises ValueError for a ``k`` below 1."""
        object.__setattr__(self, "k", _whole("k of top-k attention", self.k))


Window = int | TopK | None
"""What a token attends to: the last so many tokens, itself included; :class:`TopK`; None: its whole past."""


def window_of(word: str) -> Window:
    """The window that a word of a command line means: ``full``, a number of tokens, ``top-NUMBER``.

    Raises:
      ValueError: it is none of these, or the number is 0.

    >>> [window_of(word) for word in ("full", "16", "top-4")]
    [None, 16, TopK(k=4)]
    """
    if word == "full":
        return None
    if found := re.fullmatch(r"(top-)?(\d+)", word):
        return TopK(int(found[2])) if found[1] else int(found[2])
    raise ValueError(f"{word!r} is neither full, a number of tokens, nor top-NUMBER")


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a decoder is made from (static).

    Attributes:
      vocab: number of tokens; they are ``0 .. vocab - 1``.
      length: most tokens of a sequence.
      width: units of the residual stream.
      heads: of every attention; they share the width out, an even number of units each.
      layers: blocks of attention and perceptron.
      windows: of every block, the first one first; empty: all attend to their whole past.
      hidden: units of a block's perceptron; None: :data:`MLP_FACTOR` times the width.
    """

    vocab: int
    length: int
    width: int
    heads: int
    layers: int
    windows: tuple[Window, ...] = ()
    hidden: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range; makes windows that were left out explicit."""
        for name in ("vocab", "length", "width", "heads", "layers"):
            object.__setattr__(self, name, _whole(name, getattr(self, name)))
        if self.hidden is not None:
            object.__setattr__(self, "hidden", _whole("hidden", self.hidden))
        if self.width % self.heads:
            raise ValueError(f"heads must divide the width: {self.heads} heads, width {self.width}")
        if self.width // self.heads % 2:
            raise ValueError(
                f"rotary positions turn pairs of units, so that a head needs an even number of them: "
                f"{self.width // self.heads} (width {self.width}, {self.heads} heads)"
            )
        windows = tuple(self.windows) or (None,) * self.layers
        if len(windows) != self.layers:
            raise ValueError(f"windows must be as many as layers, or none: {len(windows)}, not {self.layers}")
        object.__setattr__(self, "windows", tuple(self._window(n, w) for n, w in enumerate(windows)))

    def _window(self, number: int, window: Window) -> Window:
        if window is None:
            return None
        tokens = window.k if isinstance(window, TopK) else _whole(f"the window of layer {number}", window)
        if tokens > self.length:
            raise ValueError(
                f"the window of layer {number} must be at most the length {self.length}: {tokens} tokens"
            )
        return window if isinstance(window, TopK) else tokens

    @property
    def head_width(self) -> int:
        """Units of a head."""
        return self.width // self.heads

    @property
    def hidden_width(self) -> int:
        """Units of a block's perceptron."""
        return MLP_FACTOR * self.width if self.hidden is None else self.hidden


def num_params(spec: Spec) -> int:
    """How many parameters a dense decoder has.

    ``2 vocab width`` of embedding and head; per block ``4 width**2`` of attention, ``2 hidden width``
    of its perceptron and two scales of ``width``; the last scale. No biases.

    >>> num_params(Spec(vocab=10, length=8, width=4, heads=2, layers=1))
    284
    """
    return 2 * spec.vocab * spec.width + spec.layers * block_params(spec) + spec.width


def block_params(spec: Spec) -> int:
    """How many of them a block has."""
    return 4 * spec.width**2 + 2 * spec.hidden_width * spec.width + 2 * spec.width


def _whole(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number: {value!r}") from None
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"{name} must be at least 1: {value!r}")
    return number
