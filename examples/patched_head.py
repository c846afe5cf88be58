"""Extrema and patches on the head of your own Flax model."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxnet


class Base(nn.Module):
    """A convolution and a pooling."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.max_pool(nn.relu(nn.Conv(8, (3, 3))(x)), (2, 2), (2, 2))


def main(epochs: int = 6) -> tuple[float, float]:
    """Trains a sparse head, patches it, trains on; returns both test accuracies."""
    digits, base = jaxnet.data.load("digits"), Base()
    make = lambda x, y: jaxnet.Split(jnp.asarray(x), jnp.asarray(y), digits.mean, digits.std, (8, 8, 1))  # noqa: E731
    train, test = make(digits.x_train, digits.y_train), make(digits.x_test, digits.y_test)
    conv = base.init(jax.random.key(0), np.zeros((1, 8, 8, 1)))["params"]

    spec = jaxnet.NetworkSpec((4 * 4 * 8, 48, 32, 10), density=0.1)
    head, wired = jaxnet.init(spec, key_mask=jax.random.key(1), key_init=jax.random.key(2))
    model = jaxnet.nn.Head(lambda params, _, x: base.apply({"params": params}, x), jaxnet.MLP(spec))
    task = jaxnet.Task(model, batch_size=32)
    net = jaxnet.Net.of(
        {"base": conv, "head": head}, {"base": None, "head": wired}, jaxnet.dual_rate_adam(3e-3, 3e-3)
    )
    epoch = jax.jit(jaxnet.make_epoch(task))

    def trained(net: jaxnet.Net, first: int) -> tuple[jaxnet.Net, float]:
        state = jaxnet.init_state(net)
        for number in range(first, first + epochs):
            state, _ = epoch(state, train, jax.random.key(3), jnp.asarray(number))
        return state.net, float(jaxnet.evaluate(task, state.net.params, state.net.structure, test).accuracy)

    net, before = trained(net, 0)
    found = jaxnet.signals.find(task, net.params, net.structure, train)

    def patch(params):
        head, wired = jaxnet.with_patches(
            params["head"], net.structure["head"], found, jaxnet.PatchRules(), key_patch=jax.random.key(4)
        )
        return {**params, "head": head}, {**net.structure, "head": wired}

    net, after = trained(jaxnet.changes.reshape(net, patch), epochs)
    counts = jaxnet.count_nonzeros(net.params["head"], net.structure["head"])
    print(f"{before:.3f}, with patches {after:.3f} and {counts['total']} values in the head")
    return before, after


if __name__ == "__main__":
    main()
