"""Networks side by side, laid over the devices there are: each device computes with its share of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnet.types import PyTree

AXIS = "network"


@dataclasses.dataclass(frozen=True)
class NetworkSharding:
    """Which devices share the networks of a call.

    Attributes:
      devices: each takes as many networks as every other.
    """

    devices: tuple[jax.Device, ...]

    @classmethod
    def of(cls, networks: int) -> NetworkSharding:
        """As many of the local devices as divide the number of networks."""
        local = jax.local_devices()
        used = next(n for n in range(min(len(local), max(networks, 1)), 0, -1) if networks % n == 0)
        return cls(tuple(local[:used]))

    @property
    def each(self) -> NamedSharding:
        """Of arrays ``(network, ...)``."""
        return NamedSharding(self._mesh, PartitionSpec(AXIS))

    @property
    def shared(self) -> NamedSharding:
        """Of arrays that all networks use: they lie on every device."""
        return NamedSharding(self._mesh, PartitionSpec())

    @property
    def _mesh(self) -> Mesh:
        return Mesh(np.asarray(self.devices), (AXIS,))

    def place(self, args: Sequence[PyTree], each: Sequence[bool]) -> tuple[PyTree, ...]:
        """Arguments, or shapes, on the devices: leaves ``(network, ...)`` where ``each``, else for all."""
        if len(self.devices) == 1:
            return tuple(args)

        def put(leaf: Any, where: NamedSharding) -> Any:
            if isinstance(leaf, jax.ShapeDtypeStruct):
                return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
            return jax.device_put(leaf, where)

        wheres = [self.each if one else self.shared for one in each]
        return tuple(
            jax.tree.map(lambda leaf, where=where: put(leaf, where), arg)
            for arg, where in zip(args, wheres, strict=True)
        )

    def gather(self, tree: PyTree) -> PyTree:
        """What a call gave, on the first device alone, as all else lies."""
        return tree if len(self.devices) == 1 else jax.device_put(tree, self.devices[0])

    def over(self, function: Callable[..., Any], each: Sequence[bool]) -> Callable[..., Any]:
        """A function of one network as one of all, which every device computes for its own.

        ``each`` says which arguments are ``(network, ...)``; results all are. XLA's partitioner would
        gather what a kernel's call reads on every device.
        """
        together = jax.vmap(function, in_axes=tuple(0 if one else None for one in each))
        if len(self.devices) == 1:
            return together
        return jax.shard_map(
            together,
            mesh=self._mesh,
            in_specs=tuple(PartitionSpec(AXIS) if one else PartitionSpec() for one in each),
            out_specs=PartitionSpec(AXIS),
            check_vma=False,
        )
