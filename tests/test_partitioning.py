"""A decoder over eight virtual devices is the one on a single device, wherever its checkpoint goes on."""

from __future__ import annotations

import json
from typing import Any

import jax
import pytest

from jaxnet import Task, partitioning, transformer


@pytest.mark.cpu
def test_a_sharded_decoder_is_the_unsharded_one_and_its_checkpoint_moves(run_python, tmp_path):
    done = run_python("-m", "tests.partitioning_on_devices", "narrow", str(tmp_path), devices=8)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["sharded"] < 1e-5 and found["moved"] < 1e-5
    assert found["moved loss"] == pytest.approx(found["loss"], rel=1e-6)
    assert found["cut"] == [["tensor", None], [16, 16]]  # of 64 hidden units, on four devices; moments too


@pytest.mark.slow
@pytest.mark.cpu
def test_the_shape_of_gpt2_lowers_for_eight_gpus(run_python):
    done = run_python("-m", "tests.partitioning_on_devices", "gpt2", devices=8)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"devices": 8, "platforms": ["cuda"]}


def test_what_cannot_be_laid_out_is_refused():
    with pytest.raises(ValueError, match="a mesh of 1 x 9 needs as many devices: there are "):
        partitioning.mesh(1, 9)
    over: Any = jax.sharding.AbstractMesh((3, 1), ("data", "tensor"))
    state: Any = None
    spec = transformer.Spec(vocab=8, length=4, width=4, heads=2, layers=1)
    with pytest.raises(ValueError, match="3 parts of a batch do not divide 8 samples"):
        partitioning.epoch_over(over, Task(transformer.model(spec), 8), state)
