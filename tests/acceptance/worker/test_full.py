"""Redis answers and takes no writes, for it is full or its disk fails: workers live, wait, and lose nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.acceptance.worker.conftest import Start
from tests.acceptance.worker.post import Post, Worker, until
from tests.acceptance.worker.test_claims import started
from tests.hurt import Hurt

LEASE_MS = 2_000


@pytest.mark.parametrize(("how", "pool"), [("full", "prefork"), ("disk", "threads")])
def test_a_redis_that_takes_no_writes_is_waited_for(start: Start, tmp_path: Path, how: str, pool: str) -> None:
    """What runs is reported when writes are taken again, what waited is begun then, each of it once; one line tells of
    the beginning and one of the end, whatever the number of tries.
    """
    with Hurt(tmp_path / "redis") as hurt:
        worker = start(f"{how}-{pool}", "-P", pool, "-c", "2", url=hurt.url, SAMPLE_HEARTBEAT="0.4")
        post = Post(hurt.url, worker.queue)
        first = post.send("sample.sleeps", 0.1, id_=post.seed(lease_ms=LEASE_MS))
        assert post.wait(first).output == "slept"
        running = post.send("sample.sleeps", 1.0, id_=post.seed(lease_ms=LEASE_MS))
        started(worker, running)
        os.kill(worker.process.pid, signal.SIGSTOP)  # so that the next ones are still in the queue
        waiting = [post.send("sample.sleeps", 0.01) for _ in range(5)]
        hurt.begin(how)
        os.kill(worker.process.pid, signal.SIGCONT)
        began = time.monotonic()
        until(lambda: f"end {running}" in worker.notes(), "the end of what ran")
        until(lambda: time.monotonic() > began + 1.5 * LEASE_MS / 1000, "more than a lease")
        assert worker.alive(), worker.text()[-3000:]
        assert post.told(running) == []
        if how == "full":  # leases can be renewed: that needs no room
            assert post.client.zscore(post.keys.leases, running) / 1000 > time.time() - 0.2
        hurt.mend()
        for id_ in (running, *waiting):
            assert post.wait(id_).output == "slept"
        post.settled()
        for id_ in (running, *waiting):
            assert len(post.told(id_)) == 1
            assert len([it for it in worker.notes() if it.startswith(f"start {id_}")]) == 1
        assert worker.alive()
        until(lambda: "takes writes again" in worker.text(), "the end of it in the log")
        said = [line for line in worker.text().splitlines() if "goes on when writes are taken again" in line]
        assert 1 <= len(said) <= 3  # one a process
        assert "Unrecoverable" not in worker.text()
        worker.close()


def test_pings_that_a_failing_disk_refuses_end_no_worker(tmp_path: Path) -> None:
    """Redis refuses PING too while its disk fails: on a subscription, on a connection, and right after connecting."""
    with Hurt(tmp_path / "redis") as hurt:
        command = [sys.executable, "-m", "tests.acceptance.worker.pinged", hurt.url]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "subscribed\n"
            hurt.begin("disk")
            told, _ = process.communicate("\n", timeout=60)
            hurt.mend()
    assert told.splitlines() == ["None", "lived"]


def test_a_worker_keeps_its_client_for_as_long_as_its_connections(tmp_path: Path) -> None:
    """One client in place of one for each command; what it notes of messages is there in the end, over a broken
    connection and in a Redis that was full too, whether it was waited for or not, or put off.
    """
    with Hurt(tmp_path / "redis") as hurt:
        command = [sys.executable, "-m", "tests.acceptance.worker.kept", hurt.url]
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    assert len(told) == 21
    assert [line for line in told if not line.endswith(": True")] == []


def test_a_worker_that_is_told_to_stop_does_not_wait_for_room(start: Start, tmp_path: Path) -> None:
    """SIGTERM ends it also while Redis is full; what it had popped is missed by its lease or its deadline."""
    with Hurt(tmp_path / "redis") as hurt:
        worker = start("stopped", "-P", "threads", "-c", "1", url=hurt.url)
        post = Post(hurt.url, worker.queue)
        os.kill(worker.process.pid, signal.SIGSTOP)
        post.send("sample.sleeps", 0.01)
        hurt.begin("full")
        os.kill(worker.process.pid, signal.SIGCONT)
        until(lambda: "goes on when writes are taken again" in worker.text(), "its wait")
        worker.signal(signal.SIGTERM)
        worker.ended()


def test_an_output_over_the_limit_fails_the_node(start: Start, store: str) -> None:
    """Its report is small, names both sizes, and asks for no retry; a blob below the limit is kept."""
    worker = start("limited", "-P", "threads", "-c", "1", CELERIAC_OUTPUT_LIMIT_BYTES="400000")
    post = Post(store, worker.queue)
    told = post.wait(post.send("sample.echo", "x" * 400_000))
    assert told.short == ("failed", "contract", "OutputTooLarge")
    message = told.report["error"]["message"]
    assert "400,002 bytes" in message
    assert "400,000" in message
    assert post.wait(post.send("sample.echo", "x" * 300_000)).report["output"] == "blob"


def test_an_output_nested_too_deeply_fails_the_node(thread_post: Post) -> None:
    """Not every reader of JSON could take it, and a scheduler least of all may stumble over it."""
    deep: list[object] = []
    for _ in range(190):
        deep = [deep]
    assert thread_post.wait(thread_post.send("sample.echo", deep)).short[0] == "succeeded"
    for _ in range(20):
        deep = [deep]
    told = thread_post.wait(thread_post.send("sample.echo", deep))
    assert told.short == ("failed", "contract", "EncodeError")
    assert "200 levels" in told.report["error"]["message"]


def test_a_worker_beside_an_unsafe_redis_says_so(tmp_path: Path, start: Start) -> None:
    """Eviction and a missing append-only file are warned of at the start, each once."""
    with Hurt(tmp_path / "redis") as hurt:
        hurt.client.config_set("appendonly", "no")
        hurt.client.config_set("maxmemory-policy", "allkeys-lru")
        worker: Worker = start("unsafe", "-P", "threads", "-c", "1", url=hurt.url)
        until(lambda: worker.text().count("UNSAFE STORE") == 2, "two warnings")
        assert "appendonly is off" in worker.text()
        assert "allkeys-lru" in worker.text()
        worker.close()
