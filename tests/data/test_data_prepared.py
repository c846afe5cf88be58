"""Data sets of tensorflow-datasets: the real ones where they are, and small ones made by hand."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest

from jaxnet import data
from jaxnet.errors import InputError


@pytest.fixture
def load(tmp_path):
    """Loads from what ``prepare`` wrote, with a cache of the test's own."""

    def from_tmp(name, **options):
        options = {"validation_fraction": 0, **options}
        return data.load(name, data_dir=tmp_path / "tfds", cache_dir=tmp_path / "cache", **options)

    return from_tmp


@pytest.mark.slow
def test_mnist(mnist_dir, tmp_path, run_python):
    # Read by two fresh processes, the first of which would meet a TensorFlow if it asked for one.
    trap = tmp_path / "trap" / "tensorflow"
    trap.mkdir(parents=True)
    (trap / "__init__.py").write_text("raise SystemExit('TensorFlow was imported')\n")
    code = (
        "import sys, warnings; warnings.simplefilter('error'); from jaxnet import data; "
        "d = data.load('mnist'); "
        "print(d, d.fingerprint, sorted({'tensorflow', 'tensorflow_datasets'} & set(sys.modules)))"
    )
    env = {
        "JAXNET_DATA_DIR": str(mnist_dir),
        "JAXNET_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(trap.parent),
    }
    first, second = run_python("-c", code, env=env), run_python("-c", code, env=env)
    assert (first.returncode, first.stderr) == (0, "")
    said = (
        "Dataset('mnist', 50000 training, 10000 validation, 10000 test, image 28x28x1, 10 classes) "
        "5e774a9defbceb11 "
    )
    assert first.stdout == said + "['tensorflow_datasets']\n"
    assert (second.returncode, second.stdout, second.stderr) == (0, said + "[]\n", "")  # from the cache

    mnist = data.load("mnist", data_dir=mnist_dir, cache_dir=tmp_path / "cache")
    everything = np.concatenate([mnist.x_train, mnist.x_val]) / np.float32(255)
    np.testing.assert_allclose([everything.mean(), everything.std()], [0.1307, 0.3081], atol=1e-4)
    np.testing.assert_array_equal(np.unique(mnist.mean), [np.float32(0.1307)])
    np.testing.assert_array_equal(np.unique(mnist.std), [np.float32(0.3081)])
    # The counts of the original, as its authors published them.
    train = np.array([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    np.testing.assert_array_equal(np.bincount(mnist.y_train) + np.bincount(mnist.y_val), train)
    np.testing.assert_array_equal(
        np.bincount(mnist.y_test), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    )
    assert np.all(np.abs(np.bincount(mnist.y_val) - train / 6) < 1)


@pytest.mark.slow
def test_cifar10(data_dir, tmp_path):
    if not (data_dir / "cifar10").is_dir():
        pytest.skip("the data folder has no cifar10: prepare it, or set JAXNET_DATA_DIR to one that has")
    assert data.load("cifar10", data_dir=data_dir, cache_dir=tmp_path).fingerprint == "35502fd31741611c"
    cifar = data.load("cifar10", data_dir=data_dir, cache_dir=tmp_path, validation_fraction=0)
    assert cifar.fingerprint == "a777a5e73ff26b02"
    assert (cifar.x_train.shape, cifar.x_test.shape) == ((50000, 3072), (10000, 3072))
    assert (cifar.image_shape, cifar.num_classes) == ((32, 32, 3), 10)
    np.testing.assert_array_equal(np.bincount(cifar.y_train), [5000] * 10)
    np.testing.assert_array_equal(np.bincount(cifar.y_test), [1000] * 10)
    np.testing.assert_array_equal(np.stack([cifar.mean, cifar.std]), np.full((2, 3072), 0.5, np.float32))
    # The channel means known of CIFAR-10 show that channels are innermost, red first.
    means = cifar.x_train.reshape(-1, 3).mean(axis=0, dtype=np.float64) / 255
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=1e-3)


def test_decoded_images_are_those_prepared(prepare, load, images):
    prepare("mnist", **images)
    loaded = load("mnist")
    for key, values in images.items():
        np.testing.assert_array_equal(getattr(loaded, key), values.reshape(len(values), -1).squeeze())
    assert (loaded.x_train.dtype, loaded.y_train.dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(loaded.mean, np.full(784, 0.1307, np.float32))


def test_colour_images_are_flattened_with_channels_innermost(prepare, load, images):
    rng = np.random.default_rng(4)
    images |= {
        key: rng.integers(0, 256, (len(images[key]), 32, 32, 3), np.uint8) for key in ("x_train", "x_test")
    }
    prepare("cifar10", **images, version="3.0.2")
    loaded = load("cifar10")
    assert loaded.image_shape == (32, 32, 3)
    np.testing.assert_array_equal(loaded.x_train, images["x_train"].reshape(40, 3072))


def test_statistics_not_agreed_upon_are_those_of_the_training_images(prepare, load, images):
    prepare("kmnist", **images)
    for _ in range(2):  # decoded, then from the cache
        loaded = load("kmnist", validation_fraction=0.5)
        np.testing.assert_allclose(loaded.mean, np.full(784, (images["x_train"] / 255).mean()), rtol=1e-6)
        np.testing.assert_allclose(loaded.std, np.full(784, (images["x_train"] / 255).std()), rtol=1e-6)


def test_letters_count_from_zero(prepare, load, images):
    images |= {"y_train": np.arange(40) % 26 + 1, "y_test": np.arange(20) + 1}
    prepare("emnist/letters", **images, num_classes=37)
    loaded = load("emnist/letters")
    assert loaded.num_classes == 26
    np.testing.assert_array_equal(loaded.y_train, np.arange(40) % 26)


def test_the_highest_version_is_read(prepare, load, images):
    prepare("mnist", **images, version="3.0.1")
    newer = {**images, "x_train": 255 - images["x_train"]}
    folder = prepare("mnist", **newer, version="3.0.10")
    shutil.copytree(folder, folder.with_name("4.0.0.incompleteABC_mnist-train"))
    np.testing.assert_array_equal(load("mnist").x_train, newer["x_train"].reshape(40, -1))


def test_data_folder_from_the_environment(prepare, tmp_path, images, monkeypatch):
    prepare("mnist", **images)
    monkeypatch.setenv("JAXNET_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    assert len(data.load("mnist", cache_dir=tmp_path / "cache").x_test) == 20
    monkeypatch.setenv("JAXNET_DATA_DIR", "")
    with pytest.raises(InputError, match="elsewhere"):
        data.load("mnist", cache_dir=tmp_path / "cache")


def test_strays_of_other_systems_change_nothing(prepare, load, images, tmp_path):
    folder = prepare("mnist", **images)
    before = load("mnist").fingerprint
    (folder / "__MACOSX").mkdir()
    for name in (
        *(".DS_Store", "Thumbs.db", "desktop.ini", "Icon\r", "features.json:Zone.Identifier"),
        *("._dataset_info.json", "._mnist-train.array_record-00000-of-00002", "__MACOSX/._features.json"),
    ):
        (folder / name).write_bytes(b"of another system")
    (folder.parent / "._3.0.1").write_bytes(b"of another system")
    (folder.parent / ".DS_Store").write_bytes(b"of another system")
    assert load("mnist").fingerprint == before
    (cached,) = (tmp_path / "cache").iterdir()  # decoded once
    shutil.rmtree(cached)
    assert load("mnist").fingerprint == before  # and decoded beside them
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [cached.name]


def test_home_folders_are_expanded(prepare, images, tmp_path, monkeypatch):
    folder = prepare("mnist", **images)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JAXNET_CACHE_DIR", "~/cache")
    monkeypatch.setenv("JAXNET_DATA_DIR", "~/tfds")
    monkeypatch.chdir(folder)
    by_variable = data.load("mnist")
    assert [path.name for path in (tmp_path / "cache").iterdir()] != []
    by_argument = data.load("mnist", data_dir="~/tfds", cache_dir="~/other")
    assert by_argument.fingerprint == by_variable.fingerprint
    assert (tmp_path / "other").is_dir() and not (folder / "~").exists()
    with pytest.raises(InputError, match=r"^~nobody-here/tfds: there is no home folder [^\n]*$"):
        data.load("mnist", data_dir="~nobody-here/tfds")


@pytest.mark.parametrize("name", [name for name in data.NAMES if name not in ("digits", "cliff")])
def test_missing_data_set_shows_three_ways_out(name, load):
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        load(name)
    message = str(caught.value)
    for way in ("tensorflow>=2.20", f"tfds.builder({name!r}, ", "JAXNET_DATA_DIR", "--dataset digits"):
        assert way in message


def test_the_command_that_the_error_shows_is_python(load, tmp_path):
    with pytest.raises(InputError) as caught:
        load("emnist/digits")
    command = str(caught.value).split('python -c "')[1].split('"`')[0]
    compile(command, "command", "exec")
    assert repr(str(tmp_path / "tfds")) in command


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _overwrite(path, start, content):
    whole = bytearray(path.read_bytes())
    whole[start : start + len(content)] = content
    path.write_bytes(whole)


RECORDS = "mnist-train.array_record-00001-of-00002"


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        (RECORDS, lambda path: path.unlink()),
        (RECORDS, lambda path: path.write_bytes(b"")),
        (RECORDS, lambda path: path.write_bytes(path.read_bytes()[:70000])),
        (RECORDS, lambda path: path.write_bytes(path.read_bytes()[:-65536])),
        (RECORDS, lambda path: path.write_bytes(bytes(len(path.read_bytes())))),
        (RECORDS, lambda path: _overwrite(path, 5000, b"\xff" * 8)),
        (RECORDS, lambda path: shutil.copy(path.with_name("mnist-test.array_record-00000-of-00002"), path)),
        ("dataset_info.json", lambda path: path.unlink()),
        ("dataset_info.json", lambda path: path.write_bytes(path.read_bytes()[:50])),
        ("dataset_info.json", lambda path: path.write_text("[]")),
        ("dataset_info.json", lambda path: edit(path, lambda info: info["splits"].pop())),
        ("dataset_info.json", lambda path: edit(path, lambda i: i["splits"][1].update(shardLengths=[]))),
        ("", lambda path: edit(path / "dataset_info.json", lambda info: info.update(fileFormat="tfrecord"))),
        ("", lambda path: (path / "features.json").unlink()),
        ("", lambda path: (path / "features.json").write_text("{")),
    ],
    ids=[
        "missing", "empty", "cut", "cut by a block", "zeros", "flipped", "exchanged", "no info", "cut info",
        "other info", "no test split", "empty test split", "tfrecord", "no features", "cut features",
    ],
)  # fmt: skip
def test_damaged_preparation_is_named_in_one_line(prepare, load, images, tmp_path, file, damage):
    folder = prepare("mnist", **images)
    damage(folder / file)
    with pytest.raises(InputError, match=r"^[^\n]*prepare [^\n]*$") as caught:
        load("mnist")
    assert str(folder / file) in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_a_broken_installation_is_not_called_damaged_data(prepare, load, images, monkeypatch):
    prepare("mnist", **images)
    monkeypatch.setitem(sys.modules, "array_record.python.array_record_module", None)
    with pytest.raises(InputError, match=r"^mnist needs tensorflow-datasets [^\n]*install them[^\n]*$"):
        load("mnist")


def test_unexpected_content_is_refused(prepare, load, images):
    prepare("mnist", **images | {"y_train": images["y_train"] % 9})
    with pytest.raises(InputError, match="9 classes in the training images, 10 in the test images"):
        load("mnist")
    wide = {key: np.zeros((len(images[key]), 28, 30, 1), np.uint8) for key in ("x_train", "x_test")}
    folder = prepare("kmnist", **images | wide)
    with pytest.raises(InputError, match=r"image of shape \(28, 30, 1\)") as caught:
        load("kmnist")
    assert str(folder) in str(caught.value)


def test_a_changed_source_is_decoded_anew(prepare, load, images):
    folder = prepare("mnist", **images)
    before = load("mnist")
    shutil.rmtree(folder)
    prepare("mnist", **images | {"x_test": 255 - images["x_test"]})
    after = load("mnist")
    assert after.fingerprint != before.fingerprint
    np.testing.assert_array_equal(after.x_test, 255 - before.x_test)
