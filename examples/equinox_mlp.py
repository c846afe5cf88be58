"""An Equinox model of your own, rewired by RigL at 10 % of its weights. Lines with jaxnet end in ``#``."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import jaxnet  #


def main(epochs: int = 12, batch: int = 32) -> float:
    """Trains on scikit-learn's digits; returns the test accuracy."""
    digits = jaxnet.data.load("digits")  #
    images, labels = jnp.asarray(digits.x_train / 255 - 0.5, jnp.float32), jnp.asarray(digits.y_train)
    model = eqx.nn.MLP(64, 10, width_size=128, depth=1, key=jax.random.key(0))
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    params, structure = jaxnet.sparsify(params, density=0.1, key=jax.random.key(1))  #
    rigl = jaxnet.methods.make("rigl", every=20)  #
    optimizer = jaxnet.wrap(optax.adam(3e-3), rigl, structure, key=jax.random.key(2))  #
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, x, y):
        def loss(params):
            logits = jax.vmap(eqx.combine(params, rest))(x)
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
    logits = jax.vmap(eqx.combine(params, rest))(jnp.asarray(digits.x_test / 255 - 0.5, jnp.float32))
    accuracy = float((logits.argmax(-1) == digits.y_test).mean())
    weights = jaxnet.structure.count(params, state.structure)  #
    print(f"{accuracy:.3f} with {weights['weights']} weights")  #
    return accuracy


if __name__ == "__main__":
    main()
