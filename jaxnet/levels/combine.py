"""Several ideas in one arm."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax

from jaxnet.levels import gluing
from jaxnet.levels.arm import Arm
from jaxnet.train import Penalty
from jaxnet.transformer import Decoder, Spec
from jaxnet.types import Scalar


def together(what: str, *arms: Arm, glued: bool = True) -> Arm:
    """One arm that does what all of these do.

    Args:
      what: it is, in a line.
      arms: at most one may change the module, one have an activity of its own, one a look, one phases.
      glued: windows of what comes out are glued as well (:mod:`jaxnet.levels.gluing`).

    Raises:
      ValueError: two arms change the same thing.
    """

    def only(field: str, plain: Any) -> Any:
        found = [value for arm in arms if (value := getattr(arm, field)) is not plain]
        if len(found) > 1:
            raise ValueError(f"two arms have {field} of their own, and one can be had: {what}")
        return found[0] if found else plain

    module, activity = only("module", Decoder), only("activity", None)
    if glued and activity is not None:
        raise ValueError(f"an arm has an activity of its own, and windows are glued by one: {what}")
    penalties = [arm.penalty for arm in arms if arm.penalty is not None]
    optimizers = [arm.optimizer for arm in arms if arm.optimizer is not None]

    def penalty(spec: Spec) -> Penalty:
        parts = [one(spec) for one in penalties]

        def total(params: Any, carried: Any) -> Scalar:
            return jnp.sum(jnp.stack([one(params, carried) for one in parts]))

        return total

    def optimizer(
        spec: Spec, plain: optax.GradientTransformation, steps: int
    ) -> optax.GradientTransformation:
        for one in optimizers:
            plain = one(spec, plain, steps)
        return plain

    return Arm(
        what,
        module,
        only("watch", None),
        penalty if penalties else None,
        gluing.activity_of(module) if glued else activity,
        optimizer if optimizers else None,
        only("phases", None),
        only("look", None),
        dials=gluing.ARM.dials,
    )
