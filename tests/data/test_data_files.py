"""The user's own files: .npz and IDX, good ones and every way they can be wrong."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnet import data
from jaxnet.data.arrays import channel_statistics
from jaxnet.data.files import read_idx
from jaxnet.errors import InputError


def arrays(**changes):
    """Eight 2x3 images of two classes to train, four to test; as changed, ``None`` leaves an array out."""
    rng = np.random.default_rng(1)
    whole = {
        "x_train": rng.integers(0, 256, (8, 2, 3), np.uint8),
        "y_train": np.array([0, 1] * 4),
        "x_test": rng.integers(0, 256, (4, 2, 3), np.uint8),
        "y_test": np.array([0, 1] * 2),
    }
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


def load_npz(tmp_path, **changes):
    path = tmp_path / "own.npz"
    np.savez(path, **arrays(**changes))
    return data.load(path, validation_fraction=0)


def write_idx(path, values):
    codes = {"|u1": 8, "|i1": 9, "<i2": 0x0B, "<i4": 0x0C, "<f4": 0x0D, "<f8": 0x0E}
    header = bytes([0, 0, codes[values.dtype.str], values.ndim]) + struct.pack(
        f">{values.ndim}I", *values.shape
    )
    content = header + values.astype(values.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


IDX_NAMES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def write_idx_folder(folder, names=IDX_NAMES, suffix=""):
    folder.mkdir(exist_ok=True)
    for key, values in arrays().items():
        write_idx(folder / (names[key] + suffix), values.astype(np.uint8))
    return folder


def test_npz_grey_levels(tmp_path):
    own = load_npz(tmp_path)
    x = arrays()["x_train"]
    assert own.name == "own.npz"
    assert own.image_shape == (2, 3, 1)
    assert own.x_train.dtype == np.uint8
    np.testing.assert_array_equal(own.x_train, x.reshape(8, 6))
    np.testing.assert_array_equal(own.y_train, [0, 1] * 4)
    np.testing.assert_allclose(own.mean, np.full(6, (x / 255).mean()), rtol=1e-6)
    np.testing.assert_allclose(own.std, np.full(6, (x / 255).std()), rtol=1e-6)


def test_npz_floating_point_with_channels(tmp_path):
    rng = np.random.default_rng(2)
    x = rng.normal([5, -3], [1, 0.1], (8, 3, 2, 2))
    x_test = x[:4] + 1
    own = load_npz(tmp_path, x_train=x, x_test=x_test)
    assert own.image_shape == (3, 2, 2)
    assert own.x_train.dtype == own.x_test.dtype == np.float32
    np.testing.assert_array_equal(own.x_train, x.reshape(8, 12).astype(np.float32))
    np.testing.assert_allclose(own.mean, np.tile(x.mean(axis=(0, 1, 2)), 6), rtol=1e-5)
    np.testing.assert_allclose(own.std, np.tile(x.std(axis=(0, 1, 2)), 6), rtol=1e-5)
    flat = np.asarray(data.normalise(own.x_train, own.mean, own.std)).reshape(-1, 2)
    np.testing.assert_allclose(flat.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(flat.std(axis=0), 1, atol=1e-4)


def test_npz_other_forms_of_the_same(tmp_path):
    plain = load_npz(tmp_path)
    wide = {key: value.astype(np.int64) for key, value in arrays().items()}
    wide["y_train"] = wide["y_train"][:, None]  # as Keras keeps them
    again = load_npz(tmp_path, **wide, unrelated=np.arange(3))
    assert again.fingerprint == plain.fingerprint
    flat = load_npz(
        tmp_path, x_train=arrays()["x_train"].reshape(8, 6), x_test=arrays()["x_test"].reshape(4, 6)
    )
    assert flat.image_shape == (6,)
    np.testing.assert_array_equal(flat.x_train, plain.x_train)


def test_a_constant_channel_does_not_become_nan(tmp_path):
    own = load_npz(tmp_path, x_train=np.zeros((8, 5)), x_test=np.ones((4, 5)))
    assert np.isfinite(np.asarray(data.normalise(own.x_test, own.mean, own.std))).all()


def test_fingerprint_follows_the_content(tmp_path):
    one = load_npz(tmp_path)
    x = arrays()["x_train"].copy()
    x[0, 0, 0] ^= 1
    assert load_npz(tmp_path, x_train=x).fingerprint != one.fingerprint
    assert load_npz(tmp_path, y_test=np.array([1, 0, 0, 1])).fingerprint != one.fingerprint
    assert load_npz(tmp_path).fingerprint == one.fingerprint


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.booleans(), st.sampled_from([0.0, 1e5]))
def test_channel_statistics_against_numpy(seed, channels, grey, offset):
    rng = np.random.default_rng(seed)
    shape = (rng.integers(1, 30), 4 * channels)
    x = (
        rng.integers(0, 256, shape, np.uint8)
        if grey
        else (rng.normal(size=shape) + offset).astype(np.float32)
    )
    mean, std = channel_statistics(x, channels)
    per_channel = x.reshape(-1, channels).astype(np.float64) / (255 if grey else 1)
    np.testing.assert_allclose(mean, per_channel.mean(axis=0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(std, per_channel.std(axis=0), rtol=1e-6)


NAN = np.zeros((8, 2, 3))
NAN[5, 1, 1] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "no array called y_test"),
        ({"x_train": None, "y_test": None}, "no array called x_train, y_test"),
        ({"x_train": np.zeros(8)}, "x_train must have the shape"),
        ({"x_train": np.zeros((8, 1, 1, 1, 1))}, "x_train must have the shape"),
        ({"x_test": np.zeros((0, 2, 3))}, "x_test is empty"),
        ({"x_train": np.zeros((8, 0))}, "x_train is empty"),
        ({"x_test": np.zeros((4, 3, 2), np.uint8)}, "images of one shape"),
        ({"x_test": np.zeros((4, 2, 3))}, "of one kind"),
        ({"x_train": np.full((8, 2, 3), 256)}, "0 to 255: found 256 to 256"),
        ({"x_train": np.full((8, 2, 3), -1)}, "0 to 255: found -1 to -1"),
        ({"x_train": np.zeros((8, 2, 3), complex)}, "x_train must hold"),
        ({"x_train": np.full((8, 2, 3), "a")}, "x_train must hold"),
        ({"x_train": NAN}, "NaN or infinity .* in image 5"),
        ({"x_train": np.full((8, 2, 3), 1e300)}, "NaN or infinity .* in image 0"),
        ({"y_train": np.zeros(7, int)}, "one label for each of the 8 images of x_train"),
        ({"y_train": np.zeros((8, 2), int)}, "one label for each"),
        ({"y_train": np.array([0.0, 1.0] * 4)}, "labels must be integers, not float64: y_train"),
        ({"y_train": np.array([-1, 0] * 4)}, "label -1 in y_train is out of range"),
        ({"y_train": np.array([1, 2] * 4)}, "class 0 does not occur, but class 2 does"),
        ({"y_train": np.array([0, 2] * 4)}, "class 1 does not occur, but class 2 does"),
        ({"y_train": np.array([0, 10**9] * 4)}, "class 1 does not occur"),
        ({"y_train": np.zeros(8, int)}, "a single class"),
        (
            {"y_test": np.array([0, 1, 2, 0])},
            "label 2 in y_test is out of range: there are 2 classes, 0 to 1",
        ),
        ({"y_test": np.array([0, 1, -2, 0])}, "label -2 in y_test is out of range"),
        ({"x_train": np.array([None] * 8)}, "not a .npz file of plain number arrays"),
    ],
)
def test_wrong_npz_is_named_in_one_line(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        load_npz(tmp_path, **changes)
    assert str(tmp_path / "own.npz") in str(caught.value)
    assert "\n" not in str(caught.value)


def _truncated(path):
    np.savez(path, **arrays())
    path.write_bytes(path.read_bytes()[:-300])


def _flipped(path):
    np.savez_compressed(path, **arrays(x_train=np.zeros((8, 2, 3), np.uint8)))
    content = bytearray(path.read_bytes())
    content[70] ^= 0xFF
    path.write_bytes(content)


def _single_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: None,
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no archive at all"),
        _truncated,
        _flipped,
        _single_array,
    ],
    ids=["missing", "folder", "empty", "text", "truncated", "flipped", "npy"],
)
def test_damaged_npz_is_named_in_one_line(tmp_path, write):
    path = tmp_path / "bad.npz"
    write(path)
    with pytest.raises(InputError, match=rf"^{path}: [^\n]*$"):
        data.load(path)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_folder(tmp_path, suffix):
    own = data.load(write_idx_folder(tmp_path / "own", suffix=suffix), validation_fraction=0)
    assert (own.name, own.image_shape, own.num_classes) == ("own", (2, 3, 1), 2)
    for key, values in arrays().items():
        np.testing.assert_array_equal(getattr(own, key), values.reshape(len(values), -1).squeeze())
    assert own.fingerprint == load_npz(tmp_path).fingerprint


def test_idx_folder_with_other_names(tmp_path):
    dotted = {key: name.replace("-idx", ".idx") for key, name in IDX_NAMES.items()}
    prefixed = {key: "emnist-own-" + name.replace("t10k", "test") for key, name in IDX_NAMES.items()}
    usual = data.load(write_idx_folder(tmp_path / "usual"))
    for label, names in {"dotted": dotted, "prefixed": prefixed}.items():
        assert data.load(write_idx_folder(tmp_path / label, names)).fingerprint == usual.fingerprint
    # The same file twice: the one that need not be unpacked is read.
    (tmp_path / "usual" / "train-images-idx3-ubyte.gz").write_bytes(b"not read")
    assert data.load(tmp_path / "usual").fingerprint == usual.fingerprint
    write_idx_folder(tmp_path / "usual", prefixed)
    with pytest.raises(InputError, match="IDX files of 2 data sets"):
        data.load(tmp_path / "usual")


STRAYS = ("._train-images-idx3-ubyte", "._t10k-labels-idx1-ubyte.gz", ".DS_Store", "Thumbs.db", "desktop.ini")


def test_idx_folder_with_folders_and_strays_in_it(tmp_path):
    # A layout in circulation: files with a dot, and beside them the folders of an archive, named as usual.
    dotted = {key: name.replace("-idx", ".idx") for key, name in IDX_NAMES.items()}
    clean = data.load(write_idx_folder(tmp_path / "clean")).fingerprint
    folder = write_idx_folder(tmp_path / "own", dotted)
    for name in IDX_NAMES.values():
        (folder / name).mkdir()
    (folder / "__MACOSX").mkdir()
    for name in (*STRAYS, "__MACOSX/._train-images.idx3-ubyte"):
        (folder / name).write_bytes(b"\0\5\x16\7 of another system")
    (folder / "train-images-idx3-ubyte.gz").symlink_to("nowhere")
    assert data.load(folder).fingerprint == clean


def test_a_folder_in_the_place_of_a_file_is_no_file(tmp_path):
    folder = write_idx_folder(tmp_path / "own")
    (folder / IDX_NAMES["x_train"]).unlink()
    (folder / IDX_NAMES["x_train"]).mkdir()
    with pytest.raises(InputError, match=r"own: no IDX file train-images-idx3-ubyte \(or .gz\)"):
        data.load(folder)


def test_the_shape_of_own_images_belongs_to_the_fingerprint(tmp_path):
    # The same numbers: three channels have statistics of their own, so the networks see other inputs.
    x, x_test = np.arange(96, dtype=np.uint8).reshape(8, 12), np.arange(48, dtype=np.uint8).reshape(4, 12)
    flat = load_npz(tmp_path, x_train=x, x_test=x_test)
    colour = load_npz(tmp_path, x_train=x.reshape(8, 2, 2, 3), x_test=x_test.reshape(4, 2, 2, 3))
    np.testing.assert_array_equal(flat.x_train, colour.x_train)
    assert not np.array_equal(flat.mean, colour.mean)
    assert flat.fingerprint != colour.fingerprint


def test_own_images_of_a_known_set_are_another_set(tmp_path):
    # By name, MNIST has the statistics that everybody uses; from files, its own.
    digits = data.load("digits", validation_fraction=0)
    parts = ("x_train", "y_train", "x_test", "y_test")
    np.savez(tmp_path / "d.npz", **{part: getattr(digits, part) for part in parts})
    own = data.load(tmp_path / "d.npz", validation_fraction=0)
    np.testing.assert_array_equal(own.x_train, digits.x_train)
    assert own.fingerprint != digits.fingerprint


@given(
    st.sampled_from(["u1", "i1", "i2", "i4", "f4", "f8"]), st.lists(st.integers(0, 4), min_size=1, max_size=4)
)
def test_idx_round_trip(tmp_path_factory, kind, shape):
    path = tmp_path_factory.mktemp("idx") / "values"
    values = np.random.default_rng(0).integers(-100 if kind != "u1" else 0, 100, shape).astype(kind)
    write_idx(path, values)
    read = read_idx(path)
    assert read.dtype == values.dtype
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "damaged: 63 bytes instead of the 64"),
        (lambda content: content + b"\0", "damaged: 65 bytes instead of the 64"),
        (lambda content: content[:6], "damaged: 6 bytes"),
        (lambda content: b"", "not an IDX file: it starts with nothing"),
        (lambda content: b"PNG " + content, "not an IDX file: it starts with 50 4e 47 20"),
        (lambda content: b"\0\0\x07" + content[3:], "not an IDX file"),
    ],
)
def test_damaged_idx_is_named_in_one_line(tmp_path, damage, message):
    folder = write_idx_folder(tmp_path / "own")
    path = folder / IDX_NAMES["x_train"]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=message) as caught:
        data.load(folder)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_gzip_is_named_in_one_line(tmp_path):
    folder = write_idx_folder(tmp_path / "own", suffix=".gz")
    path = folder / (IDX_NAMES["y_test"] + ".gz")
    whole = path.read_bytes()
    for content in (whole[:-4], b"plain", whole[:12] + b"\xff\xff\xff" + whole[15:]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"^{path}: cannot be read: [^\n]*$"):
            data.load(folder)


def test_incomplete_idx_folder_says_what_is_missing(tmp_path):
    with pytest.raises(
        InputError, match="no IDX file train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k"
    ):
        data.load(tmp_path)
    folder = write_idx_folder(tmp_path / "own")
    (folder / IDX_NAMES["y_test"]).unlink()
    with pytest.raises(InputError, match=r"^[^\n]*no IDX file t10k-labels-idx1-ubyte \(or .gz\)[^\n]*$"):
        data.load(folder)
    with pytest.raises(InputError, match="IDX files are given by their folder"):
        data.load(folder / IDX_NAMES["x_test"])
