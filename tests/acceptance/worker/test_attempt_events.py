"""Celery's own events of attempts that come several in one message: what Flower sees of each, and at whose cost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.events.state import State

from scheduler.embedded import EmbeddedRedis
from tests.acceptance.worker.conftest import Start
from tests.acceptance.worker.post import BundledPost, Post, Worker, broker_url, until

ASKED = {"CELERIAC_ATTEMPT_EVENTS": "true"}
POOLS = {"processes": ("-P", "prefork", "-c", "1"), "threads": ("-P", "threads", "-c", "2")}
OF_THE_SENDER = {"hostname", "pid", "clock", "utcoffset", "timestamp", "local_received", "type"}


class Listener:
    """Hears all events on a broker, as Flower does."""

    def __init__(self, url: str) -> None:
        self.heard: list[dict[str, Any]] = []
        self._app = Celery("listener", broker=broker_url(url), set_as_current=False)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        with self._app.connection_for_write() as connection, self._app.events.Dispatcher(connection) as calls:

            def hears() -> bool:
                calls.send("test-called")
                return bool(self.heard)

            until(hears, "the listener hears what is said")

    def _listen(self) -> None:
        with self._app.connection_for_read() as connection:
            receiver = self._app.events.Receiver(connection, handlers={"*": self.heard.append})
            with receiver.consumer_context(wakeup=False) as (own, _, _):
                while not self._ends.is_set():
                    try:
                        own.drain_events(timeout=0.1)
                    except TimeoutError:
                        continue

    def of(self, id_: str) -> list[dict[str, Any]]:
        """Events of one task so far."""
        return [it for it in list(self.heard) if it.get("uuid") == id_]

    def types(self, id_: str) -> list[str]:
        """Their types."""
        return [it["type"].removeprefix("task-") for it in self.of(id_)]

    def wait(self, id_: str, last: str) -> list[dict[str, Any]]:
        """Events of one task, as soon as one of this type is among them."""
        until(lambda: last in self.types(id_), f"task-{last} of {id_}; so far {self.types(id_)}")
        return self.of(id_)

    def close(self) -> None:
        """End listening."""
        self._ends.set()
        self._thread.join(20)
        self._app.close()


@pytest.fixture
def listener(store: str) -> Iterator[Listener]:
    """Listens on the workers' broker."""
    it = Listener(store)
    yield it
    it.close()


@pytest.fixture(scope="module", params=["processes", "threads"])
def tells(request: pytest.FixtureRequest, store: str, home: Path) -> Iterator[Worker]:
    """A worker of either pool that was asked for these events, and has its own switched on; one for the file."""
    secret = {"CELERIAC_SECRET_CODE": "rosebud"}
    worker = Worker(store, home, f"tells-{request.param}", *POOLS[request.param], "-E", **ASKED, **secret)
    yield worker.ready()
    worker.close()


@pytest.fixture
def post(store: str, tells: Worker) -> BundledPost:
    """Sends to it."""
    return BundledPost(store, tells.queue)


def send(post: BundledPost, *calls: tuple[Any, ...]) -> list[str]:
    """Send calls (task, args…) in one message; the ids of their attempts."""
    entries = [post.entry(task, *args) for task, *args in calls]
    post.send_bundle(entries)
    return [it["id"] for it in entries]


def test_each_attempt_is_told_of_as_its_own_task(post: BundledPost, tells: Worker, listener: Listener) -> None:
    """Received, started, succeeded, with executor, run and result, in the order of the attempts; then Flower's own
    memory of events knows them all.
    """
    ids = send(post, *(("sample.echo", n) for n in range(30)))
    last = listener.wait(ids[-1], "succeeded")
    assert all(listener.types(it) == ["received", "started", "succeeded"] for it in ids)
    ends = [it["uuid"] for it in listener.heard if it["type"] == "task-succeeded" and it["uuid"] in ids]
    assert ends == ids
    received, _, succeeded = last
    assert {it["hostname"] for it in last} == {tells.hostname}
    assert received["name"] == "sample.echo"
    assert received["root_id"] == received["parent_id"] == post.run
    assert received["args"] == f"run={post.run} node=29 attempt=1"
    assert received["kwargs"] == f"{{'run': '{post.run}', 'node': '29', 'attempt': 1, 'class': 'sample-class'}}"
    assert succeeded["result"] == "29"
    assert 0 <= succeeded["runtime"] < 5
    remembered = State()
    for event in list(listener.heard):
        remembered.event(event)
    assert {remembered.tasks[it].state for it in ids} == {"SUCCESS"}


def test_a_lone_attempt_has_the_same_events(store: str, post: BundledPost, listener: Listener) -> None:
    """Type by type the same fields, for one that succeeds, one that fails, one that asks for a retry."""
    calls = (("sample.echo", 1), ("sample.fails", "ValueError"), ("sample.retries", "countdown"))
    lone = Post(store, post.queue)
    for (task, *args), last in zip(calls, ("succeeded", "failed", "retried"), strict=True):
        [together] = send(post, (task, *args))
        alone = lone.send(task, *args)
        found, expected = listener.wait(together, last), listener.wait(alone, last)
        assert listener.types(together) == listener.types(alone) == ["received", "started", last]
        for ours, theirs in zip(found, expected, strict=True):
            assert set(ours) - OF_THE_SENDER == set(theirs) - OF_THE_SENDER
            assert ours["hostname"] == theirs["hostname"]
        if last == "failed":
            assert found[-1]["exception"] == expected[-1]["exception"]


def test_endings_without_a_result(post: BundledPost, listener: Listener) -> None:
    """A failure says why and where, an unknown task too; what goes back for another attempt is rejected."""
    failed, unknown, again, last = send(
        post, ("sample.fails", "ValueError", "no " * 500), ("sample.nowhere",), ("sample.requeues",), ("sample.echo",)
    )
    listener.wait(last, "succeeded")
    told = listener.wait(failed, "failed")[-1]
    assert told["exception"].startswith("ValueError('no no ")
    assert len(told["exception"]) < 1_100
    assert "in fails" in told["traceback"]
    assert "sample.nowhere" in listener.wait(unknown, "failed")[-1]["exception"]
    assert listener.wait(again, "rejected")[-1]["requeue"] is True
    assert all(len(listener.of(it)) == 3 for it in (failed, unknown, again, last))


def test_steps_of_a_chain_are_told_of_too(post: BundledPost, listener: Listener) -> None:
    """What follows in the same message has its own events, after those of the step before."""
    first = post.entry("sample.add", 1, 2)
    second = post.step("sample.add", None, 10)
    post.send_bundle([{**first, "then": [second]}])
    assert listener.wait(second["id"], "succeeded")[-1]["result"] == "13"
    told = [(it["uuid"], it["type"]) for it in listener.heard if it.get("uuid") in (first["id"], second["id"])]
    types = ["task-received", "task-started", "task-succeeded"]
    assert told == [(id_, type_) for id_ in (first["id"], second["id"]) for type_ in types]


def test_no_event_shows_a_secret(post: BundledPost, listener: Listener) -> None:
    """Not in an exception's text, nor in its traceback."""
    reference, header = {"$secret": "CODE"}, {"celeriac": {"v": 1, "secrets": [[0, 1]]}}
    entry = post.entry("sample.fails", "ValueError", reference, headers=header)
    post.send_bundle([entry])
    [*_, failed] = listener.wait(entry["id"], "failed")
    assert failed["exception"].startswith("ValueError(")
    assert "rosebud" not in str(listener.of(entry["id"]))


def test_whoever_takes_its_process_along_has_failed(store: str, start: Start, listener: Listener) -> None:
    """By a hard time limit, or killed: told once, with the cause. What came behind was never begun."""
    worker = start("tells-deaths", *POOLS["processes"], "-E", **ASKED)
    post = BundledPost(store, worker.queue)
    slow, behind = post.entry("sample.stubborn", 60, time_limit=0.5), post.entry("sample.echo", 1)
    post.send_bundle([slow, behind])
    assert listener.wait(slow["id"], "failed")[-1]["exception"].startswith("TimeLimitExceeded(")
    hit, after = send(post, ("sample.sleeps", 60), ("sample.echo", 2))
    listener.wait(hit, "started")
    started = until(lambda: [it for it in worker.notes() if it.startswith(f"start {hit}")], "it runs")
    os.kill(int(started[0].split()[-1]), signal.SIGKILL)
    assert "WorkerLostError" in listener.wait(hit, "failed")[-1]["exception"]
    [fence] = send(post, ("sample.echo", 3))
    listener.wait(fence, "succeeded")
    assert listener.types(slow["id"]) == listener.types(hit) == ["received", "started", "failed"]
    assert listener.of(behind["id"]) == listener.of(after) == []


def test_a_process_that_ends_takes_no_event_along(store: str, start: Start, listener: Listener) -> None:
    """Each pool process ends after one message: what it has to tell leaves first."""
    start("tells-children", *POOLS["processes"], "-E", "--max-tasks-per-child", "1", **ASKED)
    post = BundledPost(store, "tells-children")
    bundles = [send(post, ("sample.echo", 1), ("sample.echo", 2)) for _ in range(4)]
    for id_ in (id_ for ids in bundles for id_ in ids):
        listener.wait(id_, "succeeded")
        assert listener.types(id_) == ["received", "started", "succeeded"]


@pytest.mark.parametrize(
    ("options", "asked"), [(("-E",), {}), (("-E",), {"CELERIAC_ATTEMPT_EVENTS": "0"}), ((), ASKED)]
)
def test_nothing_is_told_that_nobody_asked_for(
    store: str, start: Start, listener: Listener, options: tuple[str, ...], asked: dict[str, str]
) -> None:
    """Without the option, or with the worker's own events off, there is no event of an attempt in a bundle."""
    worker = start("tells-nothing", *POOLS["processes"], *options, **asked)
    post = BundledPost(store, worker.queue)
    ids = send(post, ("sample.echo", 1), ("sample.fails", "ValueError"))
    assert post.wait(ids[0]).output == 1
    post.app.control.enable_events(destination=[worker.hostname], reply=True, timeout=20, limit=1)
    fence = Post(store, worker.queue).send("sample.echo", 2)  # alone, and later: Celery tells of it
    listener.wait(fence, "succeeded")
    assert [listener.of(it) for it in ids] == [[], []]


def test_events_are_switched_on_and_off_while_the_worker_runs(store: str, start: Start, listener: Listener) -> None:
    """As Flower does it: from the next message on."""
    worker = start("tells-later", *POOLS["processes"], **ASKED)
    post = BundledPost(store, worker.queue)
    switch: Callable[..., Any] = post.app.control.broadcast
    to = {"destination": [worker.hostname], "reply": True, "timeout": 20, "limit": 1}
    silent = send(post, ("sample.echo", 1))
    assert post.wait(silent[0]).output == 1
    switch("enable_events", **to)
    told = send(post, ("sample.echo", 2))
    listener.wait(told[0], "succeeded")
    switch("disable_events", **to)
    silent += send(post, ("sample.echo", 3))
    assert post.wait(silent[-1]).output == 3
    switch("enable_events", **to)
    listener.wait(send(post, ("sample.echo", 4))[0], "succeeded")
    assert [listener.of(it) for it in silent] == [[], []]


def test_a_broker_that_does_not_answer_hinders_no_attempt(store: str, start: Start, tmp_path: Path) -> None:
    """It falls silent while attempts run: their reports come as ever, events are dropped, and it is said once."""
    with EmbeddedRedis(tmp_path / "broker") as broker:
        worker = start("tells-alone", *POOLS["processes"], "-E", **ASKED, SAMPLE_BROKER=broker_url(broker.url))
        post = BundledPost(store, worker.queue)
        post.app.conf.broker_url = broker_url(broker.url)
        ids = send(post, *[("sample.sleeps", 0.1)] * 40)
        with redis.Redis.from_url(broker.url) as client:
            pid = client.info()["process_id"]
        assert post.wait(ids[0]).output == "slept"
        os.kill(pid, signal.SIGSTOP)
        try:
            ended = [post.wait(it, 30) for it in ids]
            until(lambda: "events of attempts are dropped" in worker.text(), "the worker says so")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert {it.output for it in ended} == {"slept"}
        assert worker.text().count("events of attempts are dropped") == 1
        waits = [it.report["ran_us"] for it in ended]
        assert max(waits) < 2_000_000, "an attempt has waited for the broker"
