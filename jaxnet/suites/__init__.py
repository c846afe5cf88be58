"""Suites of token tasks: a rule gives the answer, no n-gram does; each with a control that looks alike.

A sample is a sentence of words from one small vocabulary (:data:`WORDS`), the same for all suites. Answers
are balanced. Between words that a rule connects, and between the last of them and the answer, stand so many
others that no four words in a row give anything away.

A control has the same words in the same frames, in windows of four words as often as the samples have them,
but the rule does not say what follows: its answer is drawn. Whoever is as good on controls as on samples has
learned another rule.

>>> import jax
>>> drawn = suite("modus ponens", jax.random.key(0), 1)
>>> print(show(drawn.x[0]))
if f then d ; if e then h ; if l then c ; we know e . so have h ; we know l . so have
>>> show(drawn.y[0][drawn.weight[0] > 0])
'h c'
"""

from __future__ import annotations

from jaxnet.suites.drawing import (
    SUITES,
    Drawn,
    Grammar,
    agreement,
    contrapositive,
    copy,
    induction,
    modus_ponens,
    suite,
    syllogism,
    tense,
    transitivity,
)
from jaxnet.suites.words import EITHER, LETTERS, NOUNS, TIMES, VOCAB, WORDS, show

__all__ = [
    "EITHER",
    "LETTERS",
    "NOUNS",
    "SUITES",
    "TIMES",
    "VOCAB",
    "WORDS",
    "Drawn",
    "Grammar",
    "agreement",
    "contrapositive",
    "copy",
    "induction",
    "modus_ponens",
    "show",
    "suite",
    "syllogism",
    "tense",
    "transitivity",
]
