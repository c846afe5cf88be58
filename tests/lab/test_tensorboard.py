"""Rows of a run as TensorBoard scalars."""

from __future__ import annotations

import pytest

from jaxnet.errors import InputError
from jaxnet.lab import tensorboard


def test_a_curve_per_network(tmp_path):
    pytest.importorskip("tensorboardX")
    rows = [
        {"seed": s, "phase": "train", "arm": a, "epoch": e, "accuracy": 0.5, "split": "test"}
        for s in range(2)
        for a in ("static", "skips")
        for e in (1, 2)
    ]
    assert tensorboard.export(rows, tmp_path) == 4
    assert len(list((tmp_path / "train" / "skips" / "seed-1").iterdir())) == 1


def test_a_folder_without_rows_is_named(tmp_path):
    with pytest.raises(InputError, match="no rows here"):
        tensorboard.main(tensorboard.Config(out=str(tmp_path)))
