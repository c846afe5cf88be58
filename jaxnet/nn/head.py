"""A multi-layer perceptron on top of any base: what growth and patches work on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp

from jaxnet.nn.mlp import MLP, Activations
from jaxnet.topology import Entry
from jaxnet.types import Array, Features, Key


@dataclasses.dataclass(frozen=True)
class Head:
    """A model for training (static) whose last layers are a multi-layer perceptron.

    Parameters are ``{"base": ..., "head": Params}``, the structure is ``{"base": ...,
    "head": Structure}``; what the base's part holds is the base's affair.

    Attributes:
      base: ``base(params, structure, x) -> (batch, ...)`` features of samples, flattened here.
      mlp: the head.
    """

    base: Callable[[Any, Any, Array], Array]
    mlp: MLP

    class_axis: ClassVar[int] = 0
    """Logits are ``(classes, batch)``."""

    @property
    def activation(self) -> str:
        """Of the head's hidden layers, by name."""
        return self.mlp.activation

    def incoming(self, params: Any, structure: Any) -> list[tuple[Array, Entry]]:
        """The weights into every hidden layer of the head."""
        return self.mlp.incoming(params["head"], structure["head"])

    def __call__(
        self, params: Any, structure: Any, x: Array, *, key_forward: Key | None
    ) -> tuple[Features, Activations]:
        """Logits, and the activations of the head's hidden layers.

        Raises:
          ValueError: the base's features are not as many as the head reads.
        """
        features = self.base(params["base"], structure["base"], x)
        features = features.reshape(features.shape[0], -1)
        if features.shape[1] != self.mlp.spec.sizes[0]:
            raise ValueError(
                f"the base gives {features.shape[1]} features and the head reads {self.mlp.spec.sizes[0]}"
            )
        return self.mlp(params["head"], structure["head"], jnp.asarray(features), key_forward=key_forward)
