"""A multi-layer perceptron on top of any base: what growth and patches work on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
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
      base: ``base(params, structure, x) -> (batch, ...)`` features of samples, flattened here; or a
        model that gives them in the place of logits (:class:`jaxnet.nn.Linen`).
      mlp: the head.
      frozen: the base is not trained: no gradient goes into it, and it remembers nothing.
    """

    base: Callable[..., Any]
    mlp: MLP
    frozen: bool = False

    class_axis: ClassVar[int] = 0
    """Logits are ``(classes, batch)``."""

    @property
    def activation(self) -> str:
        """Of the head's hidden layers, by name."""
        return self.mlp.activation

    def incoming(self, params: Any, structure: Any) -> list[tuple[Array, Entry]]:
        """The weights into every hidden layer of the head."""
        return self.mlp.incoming(params["head"], structure["head"])

    @property
    def remembers(self) -> bool:
        """Whether the base learns something of batches without a gradient."""
        return bool(getattr(self.base, "remembers", False)) and not self.frozen

    def __call__(
        self, params: Any, structure: Any, x: Array, *, key_forward: Key | None
    ) -> tuple[Features, Activations]:
        """Logits, and the activations of the head's hidden layers.

        Raises:
          ValueError: the base's features are not as many as the head reads.
        """
        given = params["base"], structure["base"], x
        if hasattr(self.base, "learn"):
            features = self.base(*given, key_forward=key_forward)[0]
        else:
            features = self.base(*given)
        return self._on_top(params, structure, features, key_forward)

    def learn(
        self, params: Any, structure: Any, x: Array, *, key_forward: Key | None
    ) -> tuple[Features, Activations, Any]:
        """The same while learning, and the structure after it."""
        if self.frozen or not hasattr(self.base, "learn"):
            return *self(params, structure, x, key_forward=key_forward), structure
        features, _, after = self.base.learn(params["base"], structure["base"], x, key_forward=key_forward)
        logits, seen = self._on_top(params, structure, features, key_forward)
        return logits, seen, {**structure, "base": after}

    def _on_top(
        self, params: Any, structure: Any, features: Array, key_forward: Key | None
    ) -> tuple[Features, Activations]:
        features = features.reshape(features.shape[0], -1)
        if features.shape[1] != self.mlp.spec.sizes[0]:
            raise ValueError(
                f"the base gives {features.shape[1]} features and the head reads {self.mlp.spec.sizes[0]}"
            )
        if self.frozen:
            features = jax.lax.stop_gradient(features)
        return self.mlp(params["head"], structure["head"], jnp.asarray(features), key_forward=key_forward)
