"""Checkpoints come back bit for bit, whatever kills, fills or damages the disk."""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import jaxnet.store.checkpoint as checkpoint
from jaxnet.errors import InputError
from jaxnet.store import arrays
from jaxnet.store.checkpoint import checkpoints, latest, restore, save
from jaxnet.trees import is_key

ROOT = Path(__file__).resolve().parents[2]


class State(flax.struct.PyTreeNode):
    """A state with everything a run may carry."""

    params: Any
    opt: Any
    key: jax.Array
    step: jax.Array
    best: Any = None
    name: str = flax.struct.field(pytree_node=False, default="a")


def state(seed: int = 0, width: int = 5) -> State:
    key = jax.random.key(seed)
    params = {"w": jax.random.normal(key, (3, width)), "b": [jnp.zeros(3), None]}
    opt = optax.adam(1e-3).init(params)
    return State(params, opt, jax.random.split(key, 4), jnp.int32(seed))


def bits(leaf: Any) -> bytes:
    if is_key(leaf):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def assert_same(one: Any, other: Any) -> None:
    assert (jax.tree.structure(one) == jax.tree.structure(other)) is True  # type: ignore[operator]
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert getattr(a, "dtype", type(a)) == getattr(b, "dtype", type(b))
        assert np.shape(a) == np.shape(b) and bits(a) == bits(b)


def fails(match: str, call: Callable[[], object]) -> str:
    with pytest.raises(InputError, match=match) as caught:
        call()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# Round trips


def test_a_whole_state_comes_back(tmp_path: Path) -> None:
    saved = state(3)
    save(tmp_path, "step-3", saved, {"rows": 17, "note": None})
    for like in (state(0), jax.eval_shape(lambda: state(0))):
        found, meta = restore(tmp_path, "step-3", like)
        assert_same(found, saved)
        assert meta == {"rows": 17, "note": None}
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))
    # The key works, and draws what it would have drawn.
    assert jax.random.bits(found.key[1]) == jax.random.bits(saved.key[1])


@settings(max_examples=12)
@given(
    array=hnp.arrays(
        st.sampled_from([*"fdebI?F", np.dtype(np.int64).char]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    )
)  # fmt: skip
def test_any_array_comes_back(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray) -> None:
    folder = tmp_path_factory.mktemp("any")
    save(folder, "a", {"x": array})
    found, _ = restore(folder, "a", {"x": np.zeros_like(array)})
    assert type(found["x"]) is np.ndarray
    assert_same(found, {"x": np.asarray(array)})


def test_odd_bits_and_kinds_of_leaves_come_back(tmp_path: Path) -> None:
    tree = {
        "nan": np.array([0x7FC00001, 0xFFC00000, 0x7F800001], np.uint32).view(np.float32),
        "negative zero": np.full(4, -0.0, np.float32),
        "bf16": jnp.arange(5, dtype=jnp.bfloat16),
        "fp8": np.arange(4).astype(ml_dtypes.float8_e4m3fn),
        "rbg": jax.random.split(jax.random.key(1, impl="rbg"), 3),
        "no keys": jax.random.split(jax.random.key(1), 3)[:0],
        "number": 3,
        "real": 0.1,
        "flag": True,
        "scalar": np.float32(2),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "a/b.c ['d']": np.arange(2),
    }
    save(tmp_path, "a", tree)
    found, _ = restore(tmp_path, "a", tree)
    assert_same(found, tree)
    assert [type(found[k]) for k in ("number", "real", "flag", "scalar")] == [int, float, bool, np.float32]


@pytest.mark.parametrize("tree", [{}, None, (), {"a": None}, {"a": np.zeros((0, 3))}, np.arange(3)])
def test_trees_with_little_in_them_come_back(tmp_path: Path, tree: Any) -> None:
    save(tmp_path, "a", tree, {"n": 1})
    found, meta = restore(tmp_path, "a", tree)
    assert_same(found, tree)
    assert meta == {"n": 1}


def test_a_restored_state_can_be_donated(tmp_path: Path) -> None:
    save(tmp_path, "a", state(1))
    found, _ = restore(tmp_path, "a", state())
    step = jax.jit(lambda s: s.replace(step=s.step + 1), donate_argnums=0)
    assert step(found).step == 2
    again, _ = restore(tmp_path, "a", state())
    assert_same(again, state(1))


def test_continuing_from_a_checkpoint_is_the_uninterrupted_run(tmp_path: Path) -> None:
    optimiser = optax.sgd(0.1, momentum=0.9)

    @jax.jit
    def step(params: jax.Array, opt: Any, key: jax.Array) -> tuple[jax.Array, Any, jax.Array]:
        key, use = jax.random.split(key)
        grads = params - jax.random.normal(use, params.shape)
        updates, opt = optimiser.update(grads, opt)
        return optax.apply_updates(params, updates), opt, key

    def start() -> Any:
        return jnp.ones(7), optimiser.init(jnp.ones(7)), jax.random.key(5)

    whole = start()
    for _ in range(6):
        whole = step(*whole)
    part = start()
    for _ in range(3):
        part = step(*part)
    save(tmp_path, "half", part)
    part, _ = restore(tmp_path, "half", start())
    for _ in range(3):
        part = step(*part)
    assert_same(part, whole)


# Which checkpoints there are


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    assert latest(tmp_path / "none") is None
    for step in range(1, 5):
        path = save(tmp_path, f"step-{step}", {"x": np.arange(step)})
        assert path == checkpoints(tmp_path)[-1].path
    assert [c.name for c in checkpoints(tmp_path)] == ["step-3", "step-4"]
    assert latest(tmp_path) == "step-4"
    save(tmp_path, "step-5", {"x": np.arange(3)}, keep=1)
    assert [c.name for c in checkpoints(tmp_path)] == ["step-5"]


def test_a_name_saved_again_replaces_itself_only(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 2), ("b", 3)):
        save(tmp_path, name, {"x": np.int32(value)})
    assert [c.name for c in checkpoints(tmp_path)] == ["a", "b"]
    assert restore(tmp_path, "b", {"x": np.int32(0)})[0]["x"] == 3


def test_leftovers_of_a_kill_are_no_checkpoints_and_go_at_the_next_save(tmp_path: Path) -> None:
    save(tmp_path, "a", {"x": 1})
    (tmp_path / "000002.b.partial" / "state").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    assert latest(tmp_path) == "a"
    save(tmp_path, "c", {"x": 2})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000001.a", "000002.c", "mine"]


@pytest.mark.parametrize("name", ["", "a/b", "..", "a.b", ".hidden", "a b", "ä"])
def test_bad_names_raise(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="name must be"):
        save(tmp_path, name, {"x": 1})


def test_a_leaf_that_is_no_array_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"leaf \['a'\]\['b'\] cannot be saved: str"):
        save(tmp_path / "new", "a", {"a": {"b": "text"}})
    assert not (tmp_path / "new").exists()


def test_a_missing_name_lists_those_there(tmp_path: Path) -> None:
    fails("there is none", lambda: restore(tmp_path, "a", {}))
    save(tmp_path, "b", {"x": 1})
    fails(r"no checkpoint 'a'.*\(b\)", lambda: restore(tmp_path, "a", {}))


# Another structure


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: state(width=6), r"\.params\['w'\] is float32\[3,5\] .*, not float32\[3,6\]"),
        (lambda s: s.replace(step=jnp.float32(0)), r"\.step is int32\[\] .*, not float32\[\]"),
        (lambda s: s.replace(best=jnp.zeros(2)), r"\.best \(float32\[2\]\) is not in this checkpoint"),
        (lambda s: s.replace(key=None), r"\.key \(key<fry>\[4\]\) of this checkpoint has no place"),
        (lambda s: s.replace(key=jnp.zeros(4, jnp.uint32)), r"\.key is key<fry>\[4\]"),
        (lambda s: s.replace(key=jax.random.split(jax.random.key(0, impl="rbg"), 4)), r"not key<rbg>\[4\]"),
        (lambda s: {"params": s.params}, r"\['params'\].* is not in this checkpoint"),
    ],
)  # fmt: skip
def test_the_first_differing_leaf_is_named(
    tmp_path: Path, change: Callable[[State], Any], message: str
) -> None:
    save(tmp_path, "a", state())
    fails(message, lambda: restore(tmp_path, "a", change(state())))


# Damage


def victims(folder: Path) -> list[Path]:
    return sorted(p for p in checkpoints(folder)[-1].path.rglob("*") if p.is_file())


def test_any_damaged_truncated_or_missing_file_is_named(tmp_path: Path) -> None:
    save(tmp_path, "a", state(1))
    save(tmp_path, "b", state(2))
    backup = tmp_path / "backup"
    shutil.copytree(checkpoints(tmp_path)[-1].path, backup)
    for victim in victims(tmp_path):
        data = victim.read_bytes()
        flipped = bytes([*data[:-1], data[-1] ^ 1]) if data else b"x"
        for damaged in (data[: len(data) // 2] if data else b"xy", flipped, None):
            if damaged is None:
                victim.unlink()
            else:
                victim.write_bytes(damaged)
            message = fails(
                "missing" if damaged is None else "damaged", lambda: restore(tmp_path, "b", state())
            )
            assert str(victim) in message
            assert f"delete the folder {tmp_path / '000002.b'} to continue from 000001.a" in message
            victim.write_bytes(data)
    assert_same(restore(tmp_path, "b", state())[0], state(2))
    # What the message says works.
    (victims(tmp_path)[0]).unlink()
    shutil.rmtree(tmp_path / "000002.b")
    name = latest(tmp_path)
    assert name == "a"
    assert_same(restore(tmp_path, name, state())[0], state(1))


def test_without_an_older_checkpoint_the_way_is_to_start_again(tmp_path: Path) -> None:
    save(tmp_path, "a", state())
    (checkpoints(tmp_path)[0].path / "manifest.json").write_text("{}")
    fails("no older checkpoint: start again with --overwrite", lambda: restore(tmp_path, "a", state()))


def test_an_edited_manifest_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path, "a", {"x": 1}, {"rows": 10}) / "manifest.json"
    path.write_text(path.read_text().replace('"rows": 10', '"rows": 11'))
    fails("manifest.json is damaged", lambda: restore(tmp_path, "a", {"x": 1}))


# Full disks


@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir", "statvfs"])
def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    save(tmp_path, "a", state(1))

    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    message = fails("the disk is full", lambda: save(tmp_path, "b", state(2)))
    assert "000002.b" in message
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["000001.a"]
    assert_same(restore(tmp_path, "a", state())[0], state(1))
    save(tmp_path, "b", state(2))
    assert latest(tmp_path) == "b"


@pytest.fixture
def small_disk(mount_disk: Callable[[int], Path]) -> Path:
    """A file system of its own with 1 MiB."""
    return mount_disk(1024)


@pytest.mark.parametrize("checked_first", [True, False])
def test_a_disk_that_really_is_full(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], checked_first: bool
) -> None:
    if not checked_first:  # as when something else fills the disk meanwhile
        monkeypatch.setattr(checkpoint, "_check_space", lambda *_: None)
    save(small_disk, "a", state(1))
    big = {str(i): np.random.default_rng(i).random(40_000) for i in range(8)}
    fails("the disk is full", lambda: save(small_disk, "b", big))
    time.sleep(0.3)
    assert capfd.readouterr() == ("", "")
    assert [p.name for p in small_disk.iterdir()] == ["000001.a"]
    assert_same(restore(small_disk, "a", state())[0], state(1))
    save(small_disk, "b", state(2))
    assert latest(small_disk) == "b"


def test_saving_and_restoring_say_nothing(tmp_path: Path, run_python: Callable[..., Any]) -> None:
    script = (
        "import sys, numpy as np\nfrom jaxnet.store.checkpoint import save, restore\n"
        "for i in range(2):\n    save(sys.argv[1], f'a{i}', {'x': np.arange(3)})\n"
        "print(restore(sys.argv[1], 'a1', {'x': np.arange(3)})[0]['x'])\n"
    )
    done = run_python("-W", "error", "-c", script, str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0 1 2]\n", "")


# Kills

SAVES = """
import sys, tempfile
import numpy as np
from jaxnet.store.checkpoint import latest, restore, save

def tree(step):
    rng = np.random.default_rng(step)
    return {"step": np.int64(step), "w": rng.random((20, 30)), "v": np.full(9, step)}

folder = sys.argv[1]
name, step = latest(folder), 0
if name is not None:
    found, meta = restore(folder, name, tree(0))
    step = meta["step"]
    assert name == f"step-{step}" and all(np.array_equal(found[k], v) for k, v in tree(step).items())
with tempfile.TemporaryDirectory() as scratch:
    save(scratch, "first", tree(0))  # the first save of a process is slow: it imports
print("ready", step, flush=True)
while True:
    step += 1
    save(folder, f"step-{step}", tree(step), {"step": step})
    print(step, flush=True)
"""


def expected(step: int) -> dict[str, Any]:
    weights = np.random.default_rng(step).random((20, 30))
    return {"step": np.int64(step), "w": weights, "v": np.full(9, step)}


def killing_rounds(folder: Path, rounds: int, seed: int) -> int:
    """Kills a saving process again and again; returns the last step reported as saved."""
    rng, reported = random.Random(seed), 0
    for _ in range(rounds):
        child = subprocess.Popen(
            [sys.executable, "-c", SAVES, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=ROOT,
        )  # fmt: skip
        assert child.stdout is not None
        first = child.stdout.readline()
        if not first.startswith("ready"):
            pytest.fail(child.communicate()[1])
        assert int(first.split()[1]) >= reported
        # Somewhere in the course of a save, however long that takes on this machine.
        start, saves = time.monotonic(), rng.randint(1, 3)
        done = [int(child.stdout.readline()) for _ in range(saves)]
        time.sleep(rng.uniform(0.0, 1.2) * (time.monotonic() - start) / saves)
        child.send_signal(signal.SIGKILL)
        # The last line may be cut; a save that ended may not have been reported.
        lines = child.communicate()[0].split("\n")[:-1]
        reported = max([*done, *map(int, lines)])
        name = latest(folder)
        step = int(name.removeprefix("step-")) if name else 0
        assert step in (reported, reported + 1)
        if name:
            assert_same(restore(folder, name, expected(0))[0], expected(step))
    return reported


@pytest.mark.slow
def test_kills_at_random_moments_lose_no_finished_checkpoint(tmp_path: Path) -> None:
    """What the killed process had reported as saved, or the one after, is restored every time."""
    assert killing_rounds(tmp_path, 4, seed=0) >= 4


@pytest.mark.slow
def test_many_kills_at_random_moments(tmp_path: Path) -> None:
    assert killing_rounds(tmp_path, 60, seed=1) >= 60


# In a process without threads, so that forking it is safe: Orbax is replaced by plain writes.
EVERY_MOMENT = """
import itertools, os, shutil, sys
from pathlib import Path
import numpy as np
import jaxnet.store.checkpoint as checkpoint
from jaxnet.store.checkpoint import checkpoints, latest, restore, save

def plain_save(path, arrays):
    os.mkdir(path)
    for key, array in arrays.items():
        fd = os.open(path / key, os.O_WRONLY | os.O_CREAT)
        os.write(fd, array.tobytes())
        os.close(fd)

def plain_restore(path, names, ways):
    return {name: np.frombuffer((path / name).read_bytes(), np.int64) for name in names}

checkpoint.save_arrays, checkpoint.read_arrays = plain_save, plain_restore
template, folder = Path(sys.argv[1], "template"), Path(sys.argv[1], "folder")
trees = {"a": {"x": np.arange(3)}, "b": {"x": np.arange(4)}, "c": {"x": np.arange(5)}}
save(template, "a", trees["a"])
save(template, "b", trees["b"])
os.makedirs(template / "000003.old.partial/state")
moments, seen = 0, []
while True:
    moments += 1
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    child = os.fork()
    if child == 0:
        counter = itertools.count(1)  # safe with threads
        def ending(call):
            def wrapped(*args, **kwargs):
                if next(counter) == moments:
                    os._exit(9)
                return call(*args, **kwargs)
            return wrapped
        for name in ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync", "write"):
            setattr(os, name, ending(getattr(os, name)))
        save(folder, "c", trees["c"])
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9), code
    newest = latest(folder)
    assert newest in ("b", "c")
    for found in checkpoints(folder):
        assert np.array_equal(restore(folder, found.name, trees[found.name])[0]["x"], trees[found.name]["x"])
    assert len(checkpoints(folder)) >= 2
    seen.append(newest)
    save(folder, "c", trees["c"])
    assert not list(folder.glob("*.partial")) and [c.name for c in checkpoints(folder)] == ["b", "c"]
    if code == 0:
        break
assert seen == sorted(seen)
print(moments, seen.count("b"), seen.count("c"))
"""


def test_a_kill_before_any_change_to_the_disk_leaves_the_checkpoint_before(
    tmp_path: Path, run_python: Callable[..., Any]
) -> None:
    """Ends a save just before its n-th change to the disk, for every n: no moment is left out."""
    done = run_python("-W", "ignore", "-c", EVERY_MOMENT, str(tmp_path))
    assert done.returncode == 0, done.stderr
    moments, before, after = map(int, done.stdout.split())
    assert moments == before + after and before > 10 and after > 3


def test_order_is_not_alphabetical(tmp_path: Path) -> None:
    for name in ("z", "a"):
        save(tmp_path, name, {"x": 1})
    assert latest(tmp_path) == "a"


def test_other_writes_that_failed_are_not_reported_and_all_else_is():
    def report(message: str) -> logging.LogRecord:
        return logging.LogRecord("asyncio", logging.ERROR, "", 0, message, None, None)

    lost = "Future exception was never retrieved\nfuture: <Future finished exception=ValueError('"
    assert not arrays._is_no_other_write(
        report(lost + 'OUT_OF_RANGE: Error writing "4/0.0" in OCDBT database\')>')
    )
    assert arrays._is_no_other_write(report(lost + "another')>"))
    assert arrays._is_no_other_write(report("Task was destroyed but it is pending"))
