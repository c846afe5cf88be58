"""Patches added to a network, beside those that it may have."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from jaxnet import patches
from jaxnet.errors import check_choice
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.nn.params import Params, Structure, sparse, to_masked_network
from jaxnet.patches import PatchRules
from jaxnet.types import Key, Scalar
from jaxnet.units import Extrema

RULES = ("redraw", "preserve")
"""Rules of growth; see :mod:`jaxnet.changes.shape`."""


def add_patches(
    spec: NetworkSpec,
    params: Params,
    structure: Structure,
    extrema: Sequence[Extrema],
    rules: PatchRules,
    *,
    rule: str,
    key_patch: Key,
) -> tuple[NetworkSpec, Params, Structure]:
    """Adds patches around extrema, beside the patches that are there.

    ``redraw`` draws all values, as the original; with ``preserve`` what the new
    patches put out starts at zero (:func:`jaxnet.patches.add_patches` says what
    that means for each kind). The number of new slots depends on the sizes and
    rules only; slots without an extremum are inactive.

    Raises:
      TypeError: the network is in the masked-dense representation.
      ValueError: unknown rule, or the patches that are there are of another kind
        or are applied in another way.
    """
    check_rule(rule)
    params, structure = with_patches(
        params, structure, extrema, rules, key_patch=key_patch, silent=rule == "preserve"
    )
    return spec, params, structure


def with_patches(
    params: Params,
    structure: Structure,
    extrema: Sequence[Extrema],
    rules: PatchRules,
    *,
    key_patch: Key,
    silent: bool = False,
) -> tuple[Params, Structure]:
    """Adds patches to a scaffold in the sparse representation, beside those that it may have.

    ``silent`` patches start with outgoing values of zero; see :func:`jaxnet.patches.add_patches`.

    Raises:
      TypeError: the scaffold is in the masked-dense representation.
      ValueError: the patches that are there are of another kind or are applied in another way.
    """
    onto = None if structure.bank is None else (structure.bank, params.patches)
    bank, values = patches.add_patches(
        extrema, sparse(structure), rules, key_patch=key_patch, onto=onto, silent=silent
    )
    return params.replace(patches=values), structure.replace(bank=bank)


def norm_and_drift(now: Params, params: Params, structure: Structure) -> tuple[Scalar, Scalar]:
    """Whether patches train, and what becomes of the scaffold meanwhile.

    Args:
      now: values of the patched network.
      params: of the scaffold when the patches came.
      structure: likewise.

    Returns:
      The norm of all values of patches (0 without any), and the norm of the scaffold's change over that of
      its values before.
    """
    if now.scaffold[0].weight.ndim > params.scaffold[0].weight.ndim:  # masks are no longer enforced
        params, _ = to_masked_network(params, structure)
    moved = jax.tree.map(jnp.subtract, now.scaffold, params.scaffold)
    norm = optax.tree.norm(now.patches) if jax.tree.leaves(now.patches) else jnp.zeros(())
    return norm, optax.tree.norm(moved) / optax.tree.norm(params.scaffold)


def check_rule(rule: str) -> None:
    """Raises ValueError for an unknown rule of growth."""
    check_choice("rule", rule, RULES)
