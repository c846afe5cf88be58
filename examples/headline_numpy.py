"""A sparse network in one small file, used with NumPy alone: neither JAX nor jaxnet is imported.

python -m examples.headline_numpy                                    # the samples in the file
python -m examples.headline_numpy checkpoints/headline/mnist-c.npz mnist.npz   # x_test, y_test of yours
"""

import sys
from pathlib import Path

import numpy as np

FILE = Path(__file__).resolve().parents[1] / "checkpoints" / "headline" / "digits-c-plain.npz"


def logits(net: dict[str, np.ndarray], samples: np.ndarray) -> np.ndarray:
    """Logits (sample, class) of samples (sample, feature) as they are stored."""
    h = (samples.astype(np.float32) / net["scale"].astype(np.float32) - net["mean"]) / net["std"]
    for k, width in enumerate(net["sizes"][1:]):
        # a weight that does not exist is nowhere: row by row, which inputs, with which weights
        rows = np.repeat(np.arange(width), np.diff(net[f"row_ptr_{k}"]))
        sums = np.zeros((width, len(h)), np.float32)
        np.add.at(sums, rows, h.T[net[f"column_{k}"]] * net[f"weight_{k}"][:, None])
        h = sums.T + net[f"bias_{k}"]
        if k + 2 < len(net["sizes"]):
            h = np.maximum(h, 0)
    return h


def main(path: Path = FILE, data: Path | None = None) -> float:
    """Classifies; returns the accuracy."""
    with np.load(path) as file:
        net = dict(file)
    assert str(net["activation"]) == "relu"
    x, y = net["samples"], net["labels"]
    # a port of this to another language is right where it gives these numbers
    np.testing.assert_allclose(logits(net, x), net["logits"], rtol=1e-3, atol=1e-3)
    if data is not None:
        with np.load(data) as file:
            x, y = file["x_test"].reshape(len(file["x_test"]), -1), file["y_test"]
    accuracy = float(np.mean(logits(net, x).argmax(1) == y))
    weights = sum(net[f"weight_{k}"].size for k in range(len(net["sizes"]) - 1))
    sizes = "-".join(map(str, net["sizes"]))
    print(
        f"{sizes}, {weights} weights, {path.stat().st_size / 1000:.0f} kB: {100 * accuracy:.1f} % of {len(y)}"
    )
    return accuracy


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
