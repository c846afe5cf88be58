"""Layers and networks: sparse layers for any Flax module, and the multi-layer perceptron."""

from __future__ import annotations

from jaxnet.nn.conv_layer import SparseConv, sparse_conv
from jaxnet.nn.convolution import conv
from jaxnet.nn.dense import SparseDense, sparse_dense
from jaxnet.nn.head import Head
from jaxnet.nn.layers import INITS
from jaxnet.nn.linen import Linen
from jaxnet.nn.loops import fast_in_loops
from jaxnet.nn.mlp import MLP, NetworkSpec
from jaxnet.nn.params import Params, Structure
from jaxnet.nn.pool import max_pool
from jaxnet.structure import LayerParams, LayerStructure

__all__ = [
    "INITS",
    "MLP",
    "Head",
    "LayerParams",
    "LayerStructure",
    "Linen",
    "NetworkSpec",
    "Params",
    "SparseConv",
    "SparseDense",
    "Structure",
    "conv",
    "fast_in_loops",
    "max_pool",
    "sparse_conv",
    "sparse_dense",
]
