"""Redis away, the user's result backend away: nothing finished is lost, and nothing is taken for a failure."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.embedded import EmbeddedRedis
from tests.acceptance.worker.conftest import Start
from tests.acceptance.worker.post import Post, broker_url, until
from tests.acceptance.worker.test_claims import started


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis of this test's own, so that it may be stopped; the broker is another."""
    with EmbeddedRedis(tmp_path / "own") as server:
        yield server


def freeze(server: EmbeddedRedis) -> int:
    """Stop the server as a hung machine would; returns its pid."""
    import redis

    pid = int(redis.Redis.from_url(server.url).info("server")["process_id"])
    import os

    os.kill(pid, signal.SIGSTOP)
    return pid


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_report_waits_for_redis(store: str, own: EmbeddedRedis, start: Start, pool: str) -> None:
    """Redis is away when a task ends: the report comes when Redis is back, and the task ran once."""
    import os

    worker = start(f"waits-{pool}", "-P", pool, "-c", "2", CELERIAC_REDIS_URL=own.url)
    sender, state = Post(store, worker.queue), Post(own.url, worker.queue)
    id_ = state.seed(lease_ms=30_000)
    sender.send("sample.sleeps", 0.5, id_=id_)
    started(worker, id_)
    pid = freeze(own)
    try:
        until(lambda: f"end {id_}" in worker.notes(), "the end of the task")
        until(lambda: "leases could not be renewed" in worker.text(), "a missed beat")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert state.wait(id_).output == "slept"
    assert len([it for it in worker.notes() if it.startswith(f"start {id_}")]) == 1
    assert worker.alive()


def test_a_report_that_cannot_be_made_gives_the_message_back(store: str, own: EmbeddedRedis, start: Start) -> None:
    """Beyond the lease the message returns to the broker; the attempt is claimed anew when its lease has run out."""
    import os

    worker = start("returns", CELERIAC_REDIS_URL=own.url)
    sender, state = Post(store, worker.queue), Post(own.url, worker.queue)
    id_ = state.seed(lease_ms=2000)
    sender.send("sample.sleeps", 0.5, id_=id_)
    started(worker, id_)
    pid = freeze(own)
    try:
        until(lambda: "The message goes back to the broker" in worker.text(), "the message given back", 30)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert state.wait(id_).output == "slept"
    assert worker.alive()


def test_a_failing_result_backend_is_no_failure(store: str, start: Start, tmp_path: Path) -> None:
    """The user's own store is away: outcomes are reported as they were, and messages acknowledged."""
    nowhere = f"socket://{tmp_path}/nowhere.sock"
    worker = start("storeless", SAMPLE_BACKEND=f"redis+{nowhere}")
    post = Post(store, worker.queue)
    good = post.send("sample.add", 1, 1, ignore_result=False)
    bad = post.send("sample.fails", "ValueError", ignore_result=False)
    dead = post.send("sample.dies", "kill", ignore_result=False)
    assert post.wait(good).output == 2
    assert post.wait(bad).short == ("failed", "transient", "ValueError")
    assert post.wait(dead, 30).short == ("lost", "lost", "WorkerLostError")
    assert worker.alive()
    assert broker_url(store)
