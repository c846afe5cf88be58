"""A Flax linen CNN of your own, rewired by RigL at 10 % of its weights. Lines with jaxnet end in ``#``."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import jaxnet  #


class CNN(nn.Module):
    """Two convolutions and two dense layers."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(16, (3, 3))(x))
        x = nn.relu(nn.Conv(32, (3, 3), strides=2)(x))
        x = nn.relu(nn.Dense(64)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10)(x)


def main(epochs: int = 8, batch: int = 32) -> float:
    """Trains on scikit-learn's digits; returns the test accuracy."""
    digits = jaxnet.data.load("digits")  #
    images, labels = jnp.asarray(digits.x_train.reshape(-1, 8, 8, 1) / 255 - 0.5), jnp.asarray(digits.y_train)
    model = CNN()
    params = model.init(jax.random.key(0), images[:1])["params"]
    params, structure = jaxnet.sparsify(  #
        params,
        density=0.1,
        allocation="erdos-renyi",
        key=jax.random.key(1),  #
    )  #
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))
    rigl = jaxnet.methods.make("rigl", every=20)  #
    optimizer = jaxnet.wrap(optimizer, rigl, structure, key=jax.random.key(2))  #
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, x, y):
        def loss(params):
            logits = model.apply({"params": params}, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        gradient = jax.grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        params, state = jaxnet.act(params, state, gradient)  #
        return params, state

    for epoch in range(epochs):
        order = jax.random.permutation(jax.random.key(epoch), len(labels))
        for start in range(0, len(labels) - batch + 1, batch):
            index = order[start : start + batch]
            params, state = step(params, state, images[index], labels[index])
    test = digits.x_test.reshape(-1, 8, 8, 1) / 255 - 0.5
    accuracy = float((model.apply({"params": params}, test).argmax(-1) == digits.y_test).mean())
    weights = jaxnet.structure.count(params, state.structure)  #
    print(f"{accuracy:.3f} with {weights['weights']} weights")  #
    return accuracy


if __name__ == "__main__":
    main()
