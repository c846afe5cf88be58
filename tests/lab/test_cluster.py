"""Tasks in worker processes: as they come, wherever they run, and one line where they cannot."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxnet.errors import InputError
from jaxnet.lab import cluster
from jaxnet.lab.cluster import Executor, WorkerFlags, executor

distributed = pytest.importorskip("distributed")
dask = pytest.importorskip("dask")

ROOT = Path(__file__).resolve().parents[2]


def double(number: int) -> tuple[int, int]:
    return 2 * number, os.getpid()


def fail(number: int) -> int:
    raise InputError("the samples are others") if number else OSError("of the task")


def die_once(marker: str) -> str:
    if not os.path.exists(marker):
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@pytest.fixture(scope="module")
def two() -> Iterator[Executor]:
    with executor("local:2") as workers:
        yield workers


def listening() -> set[str]:
    """Addresses that this process and its children listen on."""
    psutil = pytest.importorskip("psutil")
    me = psutil.Process()
    found = [c for p in (me, *me.children(recursive=True)) for c in p.net_connections(kind="inet")]
    return {c.laddr.ip for c in found if c.status == "LISTEN"}


def test_every_result_comes_once_and_nobody_listens_to_the_world(two: Executor) -> None:
    drawn: list[int] = []
    found: dict[int, tuple[int, int]] = {}
    for number, result in two.run(double, (drawn.append(k) or k for k in range(20))):  # type: ignore[func-returns-value]
        assert len(drawn) <= len(found) + 1 + 2 * cluster.AHEAD, "items are drawn as they are taken"
        found[number] = result
    assert {n: twice for n, (twice, _) in found.items()} == {k: 2 * k for k in range(20)}
    assert os.getpid() not in {worker for _, worker in found.values()} and two.note == "2 workers"
    assert listening() == {"127.0.0.1"}


def test_what_a_task_raises_comes_as_it_is(two: Executor) -> None:
    with pytest.raises(InputError, match=r"^the samples are others$"):
        list(two.run(fail, [1]))
    with pytest.raises(OSError, match=r"^of the task$"):
        list(two.run(fail, [0]))


def test_a_worker_of_other_versions_is_refused(two: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    here = cluster.versions()
    monkeypatch.setattr(cluster, "versions", lambda: {**here, "jax": "0.1.2"})
    with pytest.raises(InputError, match=rf"^the worker tcp://\S+ has jax {here['jax']} instead of 0\.1\.2"):
        list(two.run(double, [1]))


def test_a_task_whose_worker_dies_is_run_again(two: Executor, tmp_path: Path) -> None:
    assert list(two.run(die_once, [str(tmp_path / "marker")])) == [(0, "survived")]


SCHEDULER = """
import distributed, time
if __name__ == "__main__":
    options = {"threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(n_workers=1, **options) as c:
        print(c.scheduler_address, flush=True)
        time.sleep(100)
"""


@contextlib.contextmanager
def scheduler(folder: Path, path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Address and process of a scheduler with one worker, with ``path`` to import from."""
    (folder / "scheduler.py").write_text(SCHEDULER)
    command, env = [sys.executable, str(folder / "scheduler.py")], {**os.environ, "PYTHONPATH": str(path)}
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def test_the_loss_of_the_scheduler_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"^the Dask scheduler \S+ is gone: .* --resume$"),
        scheduler(tmp_path, ROOT) as (address, process),
        executor(address) as workers,
    ):
        for _ in workers.run(time.sleep, [0.1, 60]):
            process.kill()


def test_a_scheduler_that_cannot_load_the_task_is_told_in_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"^the scheduler or a worker cannot load what it is to run"),
        scheduler(tmp_path, tmp_path) as (address, _),
        executor(address) as workers,
    ):
        list(workers.run(double, [1]))


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match="extra `cluster`"), executor("local:1"):
        pass


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "tls://127.0.0.1:1"])
def test_nobody_answers(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(cluster, "SECONDS", 0.5)
    with (
        pytest.raises(InputError, match=f"{address}: no Dask scheduler with a worker answers"),
        executor(address),
    ):
        pass


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl for a certificate")
def test_with_certificates_from_dasks_configuration(tmp_path: Path) -> None:
    """Encrypted to a scheduler that wants it; a driver without the certificate is told so in one line."""
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    files = ["-keyout", key, "-out", certificate, "-subj", "/CN=localhost"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files], check=True, capture_output=True
    )
    tls = "distributed.comm.tls"
    roles = ("client", "worker", "scheduler")
    given = {
        f"{tls}.{role}.{name}": path for role in roles for name, path in (("cert", certificate), ("key", key))
    }
    with dask.config.set(
        {f"{tls}.ca-file": certificate, "distributed.comm.require-encryption": True, **given}
    ):
        local = distributed.LocalCluster(
            n_workers=1, processes=False, protocol="tls://", dashboard_address=None
        )
        with local:
            assert local.scheduler_address.startswith("tls://")
            with executor(local.scheduler_address) as workers:
                assert [result[0] for _, result in workers.run(double, [3])] == [6]
            with (
                dask.config.set({f"{tls}.ca-file": None}),
                pytest.raises(InputError, match="for tls:// with certificates"),
                executor(local.scheduler_address),
            ):
                pass


@pytest.mark.parametrize("wrong", ["4", "local:0", "local", "tcp://host", "http://host:1"])
def test_wrong_flags(wrong: str) -> None:
    with pytest.raises(InputError, match="--workers must be none, local:N"):
        WorkerFlags(workers=wrong)
