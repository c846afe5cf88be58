"""Prepared data sets small enough to be made by hand, without TensorFlow."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Prepare = Callable[..., Path]


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    size, length = len(content), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def _record(image: np.ndarray, label: int) -> bytes:
    """A tf.train.Example with a PNG image and a label (below 128)."""
    png = io.BytesIO()
    Image.fromarray(image.squeeze()).save(png, format="png")
    image_feature = _field(1, _field(1, png.getvalue()))  # bytes_list
    label_feature = _field(3, _field(1, bytes([label])))  # int64_list
    entries = {b"image": image_feature, b"label": label_feature}
    return _field(1, b"".join(_field(1, _field(1, k) + _field(2, v)) for k, v in entries.items()))


def _write_split(folder: Path, name: str, split: str, x: np.ndarray, y: np.ndarray, shards: int) -> list[int]:
    from array_record.python.array_record_module import ArrayRecordWriter  # type: ignore[import-untyped]

    lengths = []
    for shard, part in enumerate(np.array_split(np.arange(len(x)), shards)):
        path = folder / f"{name}-{split}.array_record-{shard:05}-of-{shards:05}"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for i in part:
            writer.write(_record(x[i], int(y[i])))
        writer.close()
        lengths.append(len(part))
    return lengths


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    """Writes a data set as tensorflow-datasets prepares it, under ``tmp_path / "tfds"``.

    ``prepare("mnist", x_train, y_train, x_test, y_test)`` returns the version's folder.
    """

    def write(
        name: str,
        x_train: np.ndarray,
        y_train: np.ndarray,
        x_test: np.ndarray,
        y_test: np.ndarray,
        *,
        version: str = "3.0.1",
        num_classes: int = 10,
        shards: int = 2,
    ) -> Path:
        folder = tmp_path / "tfds" / name / version
        folder.mkdir(parents=True)
        short = name.split("/")[0]
        splits = []
        for split, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
            lengths = _write_split(folder, short, split, x, y, shards)
            template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
            shard_lengths = [str(n) for n in lengths]
            splits.append({"name": split, "shardLengths": shard_lengths, "filepathTemplate": template})
        info = {"name": short, "version": version, "fileFormat": "array_record", "splits": splits}
        if "/" in name:
            info["configName"] = name.split("/")[1]
        (folder / "dataset_info.json").write_text(json.dumps(info))
        core = "tensorflow_datasets.core.features"
        shape = [str(n) for n in x_train.shape[1:]]
        image = {"shape": {"dimensions": shape}, "dtype": "uint8", "encodingFormat": "png"}
        features = {
            "image": {"pythonClassName": f"{core}.image_feature.Image", "image": image},
            "label": {
                "pythonClassName": f"{core}.class_label_feature.ClassLabel",
                "classLabel": {"numClasses": str(num_classes)},
            },
        }
        (folder / "features.json").write_text(
            json.dumps(
                {
                    "pythonClassName": f"{core}.features_dict.FeaturesDict",
                    "featuresDict": {"features": features},
                }
            )
        )
        return folder

    return write


@pytest.fixture
def images() -> dict[str, np.ndarray]:
    """40 training and 20 test images of MNIST's shape, 10 classes."""
    rng = np.random.default_rng(3)
    return {
        "x_train": rng.integers(0, 256, (40, 28, 28, 1), np.uint8),
        "y_train": np.arange(40) % 10,
        "x_test": rng.integers(0, 256, (20, 28, 28, 1), np.uint8),
        "y_test": np.arange(20) % 10,
    }
