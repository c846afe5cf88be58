"""A decoder of bytes on a mesh of devices (samples x weights), saved after every epoch and continued.

    python -m examples.decoder_on_a_mesh --data 2 --tensor 4        # on eight devices of this machine

It continues with any numbers of devices. Over several hosts, see docs/scaling.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import jaxnet
from jaxnet import partitioning, transformer


def main(argv: list[str]) -> None:
    """Trains the epochs that are not yet in ``--out``, and prints the loss of each."""
    parser = argparse.ArgumentParser(prog="python -m examples.decoder_on_a_mesh")
    for flag, value in {"data": 1, "tensor": 1, "width": 64, "heads": 4, "layers": 2, "length": 64}.items():
        parser.add_argument(f"--{flag}", type=int, default=value)
    for flag, value in {"batch-size": 8, "epochs": 2, "tokens": 100_000}.items():
        parser.add_argument(f"--{flag}", type=int, default=value)
    parser.add_argument("--text", default="stdlib", help="a file, or stdlib")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/decoder"))
    parser.add_argument("--distributed", action="store_true", help="one process of several")
    flags = parser.parse_args(argv)
    if flags.distributed:
        jax.distributed.initialize()
    text = jaxnet.data.text(flags.text, limit=flags.tokens)
    spec = transformer.Spec(text.vocab, flags.length, flags.width, flags.heads, flags.layers)

    def start(key: jax.Array) -> jaxnet.TrainState:
        params, structure = transformer.init(spec, key_init=key)
        return jaxnet.init_state(jaxnet.Net.of(params, structure, optax.adamw(1e-3)))

    try:
        over = partitioning.mesh(flags.data, flags.tensor)
    except ValueError as error:
        parser.error(str(error))
    task = jaxnet.Task(transformer.model(spec), flags.batch_size, transform=partitioning.batch_over(over))
    shapes = jax.eval_shape(start, jax.random.key(0))
    epoch = partitioning.epoch_over(over, task, shapes)
    train = text.windows("train", length=flags.length, batch_size=flags.batch_size)
    train = partitioning.everywhere(train, over)
    done = max((int(folder.name) for folder in flags.out.glob("[0-9]*") if folder.name.isdigit()), default=0)
    if done:
        state = partitioning.restore(flags.out / str(done), shapes, over)
    else:
        state = partitioning.init_over(over, start, jax.random.key(0))
    for number in range(done, flags.epochs):
        state, info = epoch(state, train, jax.random.key(1), jnp.asarray(number))
        partitioning.save(flags.out / str(number + 1), state)
        print(f"epoch {number + 1}: {float(info.loss):.4f} nats per byte", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
