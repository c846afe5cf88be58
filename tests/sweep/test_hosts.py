"""Processes that share a run, as threads around a store in memory: they meet, fail and die together."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnet.errors import InputError
from jaxnet.sweep.hosts import Hosts, start

PROCESS = """
import json, sys
from jaxnet.sweep.hosts import start
with start(sys.argv[1], 2, int(sys.argv[2]), timeout=200) as hosts:
    import jax
    import jax.numpy as jnp
    assert (jax.process_count(), jax.process_index()) == (hosts.count, hosts.index) == (2, int(sys.argv[2]))
    seeds = hosts.share(range(5))
    mine = jax.vmap(lambda seed: jax.random.uniform(jax.random.key(seed)))(jnp.asarray(seeds))
    told = hosts.meet("rows", f"from {hosts.index}")
    print(json.dumps({"told": told, "rows": dict(zip(seeds, mine.tolist()))}))
"""


def test_two_processes_share_seeds_on_the_loopback_interface(run_python):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda k: run_python("-c", PROCESS, address, str(k)), range(2)))
    assert [done.returncode for done in ended] == [0, 0], ended
    said = [json.loads(done.stdout) for done in ended]
    assert [s["told"] for s in said] == ["from 0", "from 0"]
    assert [sorted(s["rows"]) for s in said] == [["0", "2", "4"], ["1", "3"]]
    for seed, row in (said[0]["rows"] | said[1]["rows"]).items():
        assert row == float(jax.random.uniform(jax.random.key(int(seed))))


class Memory:
    """A key-value store of one process."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.lock = threading.Lock()

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        assert allow_overwrite
        with self.lock:
            self.values[key] = value

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        with self.lock:
            return [(k, v) for k, v in self.values.items() if k.startswith(key)]


def run_all(count: int, run: Callable[[Hosts], Any], patience: float = 30.0) -> list[Any]:
    """What ``run`` gives, or raises, in every process."""
    store = Memory()

    def process(index: int) -> Any:
        try:
            with Hosts(index, count, store, patience=patience, beat=0.02) as hosts:
                return run(hosts)
        except (InputError, OSError) as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(process, range(count)))


@given(st.integers(1, 9), st.integers(0, 40), st.integers(0, 20))
def test_every_item_falls_to_one_process_and_shares_differ_by_one_at_most(count, number, offset):
    store = Memory()
    shares = [Hosts(k, count, store).share(range(number), offset) for k in range(count)]
    assert sorted(item for share in shares for item in share) == list(range(number))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert number == 0 or shares[offset % count][0] == 0


def test_all_wait_for_each_other_and_learn_what_process_0_brought():
    arrived: list[int] = []

    def run(hosts: Hosts) -> tuple[str, int, str]:
        arrived.append(hosts.index)
        told = hosts.meet("one", f"from {hosts.index}")
        return told, len(arrived), hosts.meet("two")

    assert run_all(3, run) == [("from 0", 3, "")] * 3


def test_the_failure_of_one_ends_all_with_its_words():
    def run(hosts: Hosts) -> None:
        if hosts.index == 1:
            raise OSError("the disk is full")
        hosts.meet("never")

    zero, one, two = run_all(3, run)
    assert str(one) == "the disk is full"
    for other in (zero, two):  # whoever of them stops first may be what the other one names
        assert isinstance(other, InputError)
        assert "stopped, so this one does" in str(other) and "the disk is full" in str(other)


def test_a_process_without_a_sign_of_life_ends_the_others():
    store = Memory()
    with (
        pytest.raises(InputError, match=r"process 1 was killed .* start all again with --resume"),
        Hosts(0, 2, store, patience=0.1, beat=0.02) as hosts,
    ):
        hosts.meet("never")
    assert "was killed" in store.values["jaxnet/failed/0"]


def test_a_process_alone_waits_for_nobody():
    with Hosts() as hosts:
        assert (
            hosts.meet("anywhere", "mine") == "mine" and hosts.first and hosts.share("abc") == ["a", "b", "c"]
        )
        hosts.check()
    assert start("127.0.0.1:1", 1, 0).count == 1


def test_there_must_be_such_a_process():
    for wrong in ((2, 2, Memory()), (-1, 2, Memory()), (0, 2, None)):
        with pytest.raises(ValueError, match="cannot be"):
            Hosts(*wrong)
