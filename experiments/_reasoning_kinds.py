"""Names in ``experiments.reasoning_circuits``, known before JAX is loaded; rules for its numbers."""

from __future__ import annotations

SUITES = (
    *("copy", "induction", "modus ponens", "contrapositive", "syllogism", "transitivity", "agreement"),
    "tense",
)
"""Of :data:`jaxnet.suites.SUITES`."""

ARMS = ("trained", "shuffled answers", "untrained")
"""Networks that circuits are found in; the last two are nonsense."""

HELD = ("naive", "circuit", "random weights", "ewc")
"""How one suite is protected while another is learned; the trained network learns it beside all others."""

RULES = ("sensitivity", "attention first", "MLP first", "uniform")
"""How bits are shared out."""

MOVED = ("none", "circuit", "random")
"""What another seed's network is given of this one's."""

CONTROL = {
    **{"copy": 1 / 16, "induction": 1 / 9, "modus ponens": 1 / 2, "contrapositive": 1 / 2},
    **{"syllogism": 1 / 2, "transitivity": 1 / 2, "agreement": 1 / 2, "tense": 1 / 3},
}
"""The best accuracy on controls that can be expected: one over the words among which their answer is drawn.

Who has learned the form of a sentence knows these words: it is above the chance of all answers alike.
"""

SOLVED = 0.95
"""Accuracy on samples never seen from which a suite counts as solved."""

ROUND = 50
"""Steps between two points at which a run can go on."""

BITS = (1, 2, 3, 4, 5, 6, 7, 8)
"""Bits per weight to choose from."""

BACKUP = 0.1
"""Of a suite's gap, lost beyond the sum of both alone: from there two heads count as backups."""


def bits_by_kind(rule: str, budget: int, attention: int, perceptron: int) -> tuple[int, int]:
    """Bits of attention and perceptron weights that are ``budget`` on average, one of them finer.

    A perceptron has twice the weights of its attention: two bits more for attention cost one bit less
    everywhere else, and the other way round.

    >>> bits_by_kind("attention first", 4, 1, 2), bits_by_kind("MLP first", 4, 1, 2)
    ((6, 3), (2, 5))
    """
    assert perceptron == 2 * attention
    turn = {"attention first": 1, "MLP first": -1, "uniform": 0}[rule]
    return budget + 2 * turn, budget - turn
