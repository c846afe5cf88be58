"""Rows of a run as TensorBoard scalars."""

from __future__ import annotations

import pytest

from jaxnet import tensorboard
from jaxnet.errors import InputError


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


def test_what_is_written_is_read_back(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    rows = [{"seed": 3, "phase": "train", "epoch": e, "loss": e / 4} for e in (1, 2)]
    tensorboard.export(rows, tmp_path)
    (file,) = (tmp_path / "train" / "seed-3").iterdir()
    data, found = file.read_bytes(), []
    while data:  # length, its checksum, the event, its checksum
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        told = data[12 + length : 16 + length]
        assert int.from_bytes(told, "little") == masked_crc32c(data[12 : 12 + length])
        data = data[16 + length :]
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    assert found == [(1, "loss", 0.25), (2, "loss", 0.5)]


def test_a_full_disk_is_told(mount_disk):
    pytest.importorskip("tensorboardX")
    rows = [{"seed": 0, "phase": "train", "epoch": e, "accuracy": 0.5} for e in range(2000)]
    with pytest.raises(InputError, match=r"seed-0.*: the disk is full"):
        tensorboard.export(rows, mount_disk(32))


def test_a_folder_without_rows_is_named(tmp_path):
    with pytest.raises(InputError, match="no rows here"):
        tensorboard.main(tensorboard.Config(out=str(tmp_path)))
