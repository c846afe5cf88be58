"""What an arm may spend: as many parameters as the plain decoder."""

from __future__ import annotations

from jaxnet.transformer import Spec, block_params


def hidden_units(spec: Spec, others: int, stream: int, *, multiple: int = 1) -> int:
    """Units of a perceptron with which a block has the parameters of a plain one, to the nearest.

    Args:
      spec: of the decoder.
      others: parameters of the block beside its perceptron.
      stream: units that the perceptron reads and writes: each of its own has a weight to and from all.
      multiple: of what the number is (of experts that share the units out).

    Raises:
      ValueError: the rest of the block leaves nothing for a perceptron.
    """
    left = block_params(spec) - others
    units = multiple * round(left / (2 * stream * multiple))
    if units < 1:
        raise ValueError(f"{others} parameters leave none of a block's {block_params(spec)} to a perceptron")
    return units
