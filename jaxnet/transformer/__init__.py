"""A causal decoder of tokens: full, local and top-k attention; its weights dense, masked or sparse.

A model like any other (:class:`jaxnet.train.Model`): methods, signals, circuits and protection take its
parameters and its structure by path. Suites of token tasks are in :mod:`jaxnet.suites`, texts in
:mod:`jaxnet.data`.
"""

from __future__ import annotations

from jaxnet.transformer.attention import attend
from jaxnet.transformer.components import Components, components
from jaxnet.transformer.network import WEIGHTS, Block, Decoder, Linear, Stream, init, model
from jaxnet.transformer.spec import MLP_FACTOR, Spec, TopK, Window, block_params, num_params, window_of

__all__ = [
    "MLP_FACTOR",
    "WEIGHTS",
    "Block",
    "Components",
    "Decoder",
    "Linear",
    "Spec",
    "Stream",
    "TopK",
    "Window",
    "attend",
    "block_params",
    "components",
    "init",
    "model",
    "num_params",
    "window_of",
]
