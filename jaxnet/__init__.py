"""jaxnet: sparse networks that build themselves, trained for many seeds at once.

Functions treat one network and are pure; ``jax.vmap`` gives many. Start with
:class:`NetworkSpec`, :func:`init` and :func:`apply`; ``docs/architecture.md``
shows how the modules fit together.

>>> import jax
>>> import jaxnet
>>> spec = jaxnet.NetworkSpec((784, 256, 128, 10), density=0.02)
>>> key_mask, key_init = jax.random.split(jax.random.key(0))
>>> params, structure = jaxnet.init(spec, key_mask=key_mask, key_init=key_init)
>>> int(jaxnet.count_nonzeros(params, structure)["scaffold"])
4694
>>> logits, activations = jaxnet.apply(spec, params, structure, jax.numpy.ones((5, 784)))
>>> logits.shape
(5, 10)
"""

import lazy_loader

# the names, one by one, stand in __init__.pyi; each is loaded when it is first asked for
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
