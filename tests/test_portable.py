"""Networks as one file for NumPy: the function, the count, the bytes, and the example that uses one."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet
from examples import headline_numpy
from jaxnet.errors import InputError
from jaxnet.portable import load_portable, logits, portable, save_portable

SPEC = jaxnet.NetworkSpec((64, 12, 9, 10), 0.2, allocation="erdos-renyi")


@pytest.fixture(scope="module")
def network():
    params, structure = jaxnet.init(SPEC, **jaxnet.keys.network_keys(jax.random.key(3)))
    return params.replace(
        scaffold=tuple(
            layer.replace(bias=jnp.linspace(-0.1, 0.1, layer.bias.size)) for layer in params.scaffold
        )
    ), structure


@pytest.mark.parametrize("masked", [False, True])
def test_a_file_holds_the_same_function_and_no_weight_more(masked, network, tmp_path: Path) -> None:
    params, structure = jaxnet.to_masked_network(*network) if masked else network
    digits = jaxnet.data.load("digits")
    written = portable(params, structure, "relu", digits, {"seed": 3})
    save_portable(tmp_path / "a.npz", written)
    save_portable(tmp_path / "b.npz", written)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    read = load_portable(tmp_path / "a.npz")
    assert read.nonzeros == sum(jaxnet.allocate(SPEC.sizes, 0.2, "erdos-renyi")) and read.facts == {"seed": 3}
    x = (digits.x_test[:50] / read.scale - digits.mean) / digits.std
    wanted = np.asarray(jaxnet.apply(SPEC, network[0], network[1], jnp.asarray(x, jnp.float32))[0])
    np.testing.assert_allclose(logits(read, digits.x_test[:50]), wanted, atol=1e-4)
    np.testing.assert_allclose(read.logits, wanted[:20], atol=1e-4)
    with np.load(tmp_path / "a.npz") as file:  # the example, which knows NumPy alone
        np.testing.assert_allclose(headline_numpy.logits(dict(file), digits.x_test[:50]), wanted, atol=1e-4)


def test_the_committed_network_classifies_with_numpy_alone(tmp_path: Path, capsys) -> None:
    assert headline_numpy.main() >= 0.8  # of the twenty samples in the file
    digits = jaxnet.data.load("digits")
    np.savez(tmp_path / "digits.npz", x_test=digits.x_test.reshape(-1, 8, 8), y_test=digits.y_test)
    accuracy = headline_numpy.main(headline_numpy.FILE, tmp_path / "digits.npz")
    network = load_portable(headline_numpy.FILE)
    assert 0.9 < accuracy < 1 and "1008 weights" in capsys.readouterr().out
    assert network.nonzeros == network.facts["weights"] == int(0.02 * (64 * 256 + 256 * 128 + 128 * 10))
    assert accuracy == pytest.approx(network.facts["test_accuracy"], abs=1 / len(digits.y_test))
    text = Path(headline_numpy.__file__).read_text(encoding="utf-8")
    imports = {line.split()[1] for line in text.splitlines() if line.startswith(("import", "from"))}
    assert imports == {"sys", "pathlib", "numpy"}


def test_what_is_no_such_file_is_refused_in_a_line(tmp_path: Path) -> None:
    save_portable(tmp_path / "a.npz", load_portable(headline_numpy.FILE))
    (tmp_path / "half.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:3000])
    np.savez(tmp_path / "other.npz", x=1)
    with np.load(tmp_path / "a.npz") as file:
        np.savez(tmp_path / "newer.npz", **{**file, "version": np.int64(2)})
    for name, message in (
        ("none.npz", "no such file"),
        ("half.npz", "no portable network"),
        ("other.npz", "no portable network"),
        ("newer.npz", "of another version"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            load_portable(tmp_path / name)
        assert len(str(caught.value).splitlines()) == 1
