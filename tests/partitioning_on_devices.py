"""Run by test_partitioning.py on eight devices: a decoder on meshes, its checkpoint moved between them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet
from jaxnet import partitioning, transformer

NARROW = transformer.Spec(vocab=64, length=16, width=16, heads=4, layers=2, windows=(4, None))
GPT2 = transformer.Spec(vocab=50257, length=1024, width=768, heads=12, layers=12)
KEY = jax.random.key(0)


def start(key: jax.Array, spec: transformer.Spec = NARROW) -> jaxnet.TrainState:
    # momentum: Adam's first steps turn on the sign of gradients that are all but zero
    params, structure = transformer.init(spec, key_init=key)
    return jaxnet.init_state(jaxnet.Net.of(params, structure, optax.sgd(0.1, momentum=0.9)))


def epochs(over: Any, state: Any, numbers: tuple[int, ...]) -> tuple[Any, Any]:
    tokens = np.random.default_rng(0).integers(0, 64, 5 * 8 * 16 + 1)
    text = partitioning.everywhere(jaxnet.data.Windows.of(tokens, 16), over)
    task = jaxnet.Task(transformer.model(NARROW), 8, transform=partitioning.batch_over(over))
    epoch, info = partitioning.epoch_over(over, task, jax.eval_shape(start, KEY)), None
    for number in numbers:
        state, info = epoch(state, text, jax.random.key(1), jnp.asarray(number))
    return state, info


def apart(one: Any, other: Any) -> float:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(np.max(np.abs(np.asarray(a, float) - np.asarray(b, float)))) for a, b in pairs)


def narrow(folder: Path) -> dict[str, Any]:
    single, mesh, other = (partitioning.mesh(*shape) for shape in ((1, 1), (2, 4), (4, 1)))
    whole, info = epochs(single, partitioning.init_over(single, start, KEY), (0, 1))
    first, _ = epochs(mesh, partitioning.init_over(mesh, start, KEY), (0,))
    partitioning.save(folder / "first", first)
    moments = first.net.opt_state[0].trace["block_1"]["down"]["kernel"]
    cut = [list(moments.sharding.spec), list(moments.addressable_shards[0].data.shape)]
    second, _ = epochs(mesh, first, (1,))
    moved = partitioning.restore(folder / "first", jax.eval_shape(start, KEY), other)
    moved, info_moved = epochs(other, moved, (1,))
    return {
        "loss": float(info.loss),
        "moved loss": float(info_moved.loss),
        "sharded": apart(whole.net.params, second.net.params),
        "moved": apart(whole.net.params, moved.net.params),
        "cut": cut,
    }


def gpt2() -> dict[str, Any]:
    over = partitioning.mesh(4, 2)
    state = jax.eval_shape(lambda key: start(key, GPT2), KEY)
    task = jaxnet.Task(transformer.model(GPT2), 8, transform=partitioning.batch_over(over))
    tokens: Any = jax.ShapeDtypeStruct((16 * 1024 + 1,), jnp.uint16)
    text = jaxnet.data.Windows(tokens, 1024)
    given = state, text, jax.eval_shape(lambda: KEY), jax.ShapeDtypeStruct((), jnp.int32)
    lowered = jax.export.export(partitioning.epoch_over(over, task, state), platforms=["cuda"])(*given)
    return {"devices": lowered.nr_devices, "platforms": lowered.platforms}


if __name__ == "__main__":
    print(json.dumps({"narrow": lambda: narrow(Path(sys.argv[2])), "gpt2": gpt2}[sys.argv[1]]()))
