"""Redis away, the user's result backend away: nothing finished is lost, and nothing is taken for a failure."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from scheduler.embedded import EmbeddedRedis
from tests.acceptance.worker.conftest import Start
from tests.acceptance.worker.post import Post, until
from tests.acceptance.worker.test_claims import started


class Outage:
    """A Redis of a test's own that goes away and comes back with its data; the broker is another.

    "killed" refuses connections; "frozen" keeps them and says nothing, as a hung machine does.
    """

    def __init__(self, home: Path, how: str) -> None:
        self.home, self.how = home, how
        self.server = EmbeddedRedis(home)
        self.server.start()
        self.url = self.server.url
        with redis.Redis.from_url(self.url) as client:
            client.config_set("appendfsync", "always")  # a kill must not take what the test has just seeded
            self.pid = int(client.info("server")["process_id"])

    def begin(self) -> None:
        """It goes away."""
        os.kill(self.pid, signal.SIGSTOP if self.how == "frozen" else signal.SIGKILL)

    def end(self) -> None:
        """It is back."""
        if self.how == "frozen":
            os.kill(self.pid, signal.SIGCONT)
        else:
            self.server.stop()
            self.server = EmbeddedRedis(self.home)
            self.server.start()


@pytest.fixture(params=["killed", "frozen"])
def outage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Outage]:
    """Both kinds of outage."""
    it = Outage(tmp_path / "own", request.param)
    yield it
    it.server.stop()


def test_a_report_waits_for_redis(store: str, outage: Outage, start: Start) -> None:
    """Redis is away when tasks end: the reports come when it is back, each task ran once, the worker lives."""
    pool = "prefork" if outage.how == "killed" else "threads"
    worker = start(f"waits-{pool}", "-P", pool, "-c", "2", CELERIAC_REDIS_URL=outage.url)
    sender, state = Post(store, worker.queue), Post(outage.url, worker.queue)
    id_ = state.seed(lease_ms=30_000)
    sender.send("sample.sleeps", 0.5, id_=id_)
    started(worker, id_)
    outage.begin()
    try:
        until(lambda: f"end {id_}" in worker.notes(), "the end of the task")
        until(lambda: "leases could not be renewed" in worker.text(), "a missed beat")
    finally:
        outage.end()
    assert state.wait(id_).output == "slept"
    assert len([it for it in worker.notes() if it.startswith(f"start {id_}")]) == 1
    assert worker.alive()


@pytest.mark.parametrize("outage", ["killed"], indirect=True)
def test_a_claim_waits_for_redis(store: str, outage: Outage, start: Start) -> None:
    """Redis is away when a message comes: the task starts when it is back, once."""
    worker = start("late", CELERIAC_REDIS_URL=outage.url)
    sender, state = Post(store, worker.queue), Post(outage.url, worker.queue)
    id_ = state.seed()
    outage.begin()
    try:
        sender.send("sample.sleeps", 0.1, id_=id_)
        until(lambda: id_ in worker.text(), "the message")
        until(lambda: "leases could not be renewed" in worker.text(), "a missed beat")
    finally:
        outage.end()
    assert state.wait(id_).output == "slept"
    assert len([it for it in worker.notes() if it.startswith(f"start {id_}")]) == 1


@pytest.mark.parametrize("outage", ["killed"], indirect=True)
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_report_that_cannot_be_made_leaves_the_attempt_to_its_lease(
    store: str, outage: Outage, start: Start, pool: str
) -> None:
    """Nearly a lease later the worker is done with it, and renews it no more: so it is missed, and soon."""
    worker = start(f"gives-up-{pool}", "-P", pool, "-c", "2", CELERIAC_REDIS_URL=outage.url)
    sender, state = Post(store, worker.queue), Post(outage.url, worker.queue)
    id_ = state.seed(lease_ms=1500)
    sender.send("sample.sleeps", 0.3, id_=id_)
    started(worker, id_)
    outage.begin()
    try:
        until(lambda: "Its lease will run out" in worker.text(), "the report given up")
    finally:
        outage.end()
    until(lambda: "Redis answers again" in worker.text(), "a beat")
    began = time.time()
    until(lambda: time.time() > began + 3, "two leases, in which heartbeats come")
    assert state.client.zscore(state.keys.leases, id_) / 1000 < time.time()
    assert not state.told(id_)
    assert worker.alive()


@pytest.mark.parametrize("outage", ["killed"], indirect=True)
def test_the_main_process_reports_after_an_outage(store: str, outage: Outage, start: Start) -> None:
    """What the main process has to tell waits in its thread, and the worker goes on meanwhile."""
    worker = start("main", CELERIAC_REDIS_URL=outage.url)
    sender, state = Post(store, worker.queue), Post(outage.url, worker.queue)
    outage.begin()
    try:
        unknown = sender.send("sample.nowhere", id_=state.run and f"0.{state.run}.7.1.1")
        until(lambda: "reports wait for Redis" in worker.text(), "a report that waits")
    finally:
        outage.end()
    assert state.wait(unknown).short == ("failed", "permanent", "NotRegistered")


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


@pytest.mark.parametrize("outage", ["killed"], indirect=True)
def test_a_worker_comes_back_to_its_broker_soon(outage: Outage, start: Start) -> None:
    """Between two tries it waits for five seconds at most, however long the broker has been away."""
    worker = start("soon", url=outage.url)
    outage.begin()
    try:
        until(lambda: worker.text().count("Cannot connect to redis") > 2, "three tries in vain")
        said = re.findall(r"Trying again in ([0-9.]+) seconds", worker.text())
    finally:
        outage.end()
    assert max(map(float, said)) == 5.0
    until(lambda: "Connected to redis" in worker.text().rpartition("Cannot connect")[2], "the connection", 10)


@pytest.mark.parametrize("outage", ["killed"], indirect=True)
@pytest.mark.parametrize(("first", "how"), [("told", signal.SIGQUIT), ("away", signal.SIGTERM)])
def test_a_worker_stops_without_its_broker(outage: Outage, start: Start, first: str, how: int) -> None:
    """Told to stop just before or after its broker has gone, it ends when its attempt has; it waits for nobody."""
    worker = start(
        "stops", "-P", "prefork", "-c", "2", "--heartbeat-interval", "1", url=outage.url, SAMPLE_SOFT_SHUTDOWN="2"
    )
    id_ = (post := Post(outage.url, worker.queue)).seed(lease_ms=2_000)
    post.send("sample.sleeps", 4.0, id_=id_)  # some beats of the heart that tells Celery's events
    started(worker, id_)
    if first == "told":
        worker.signal(how)
        until(lambda: "shutdown" in worker.text().lower(), "the shutdown")
        outage.begin()
    else:
        outage.begin()
        until(lambda: "Cannot connect to redis" in worker.text(), "a try in vain")
        worker.signal(how)
    worker.ended(45)
