"""Endings that no executor is to blame for, and messages that would have ended the worker."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

from tests.acceptance.worker.conftest import Start
from tests.acceptance.worker.post import Post, Worker, until

GOOD_BODY = [[1, 2], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]


def test_a_process_that_dies_is_a_loss(post: Post, processes: Worker) -> None:
    """SIGKILL, _exit and sys.exit in a task: told once, within seconds, and the message does not come back.

    The main process tells it, and still says who began the attempt and when.
    """
    dead = [post.send("sample.dies", how) for how in ("kill", "exit", "sys.exit")]
    for id_ in dead:
        told = post.wait(id_)
        end, kind, type_ = told.short
        assert (end, kind) == ("lost", "lost")
        assert told.report["claimed_at_ms"] > 1_600_000_000_000
        assert told.report["worker"] == processes.hostname
        assert type_ in ("WorkerLostError", "SystemExit")  # what Celery 5.6 says of sys.exit
    post.settled()
    for id_ in dead:
        assert len(post.told(id_)) == 1
        assert not post.unacknowledged(id_)
    assert processes.alive()


def test_a_thread_that_exits_is_a_loss(thread_post: Post, threads: Worker) -> None:
    """sys.exit in a thread is told by the thread: Celery tells nobody."""
    id_ = thread_post.send("sample.dies", "sys.exit")
    assert thread_post.wait(id_).short == ("lost", "lost", "SystemExit")
    thread_post.settled()
    assert threads.alive()


def test_an_unknown_task_is_permanent(either: Post) -> None:
    """The worker has no such task; the report needs no header but the id."""
    id_ = either.send("sample.nowhere")
    assert either.wait(id_).short == ("failed", "permanent", "NotRegistered")


def test_an_expired_message_is_a_loss(alone: Post) -> None:
    """Celery discards it; we never send one, so infrastructure did."""
    id_ = alone.send("sample.add", 1, expires=-5)
    assert alone.wait(id_).short == ("lost", "lost", "TaskRevoked")


def test_a_revoke_of_a_waiting_task_is_a_loss(alone: Post) -> None:
    """Somebody's revoke, not our cancel: lost when its message comes, not when the revoke is heard of."""
    id_ = alone.seed()
    alone.app.control.revoke(id_, reply=True, timeout=1)
    assert alone.told(id_) == []
    alone.send("sample.add", 1, id_=id_)
    assert alone.wait(id_).short == ("lost", "lost", "TaskRevoked")
    alone.settled()
    assert len(alone.told(id_)) == 1


def test_a_revoke_that_terminates_is_a_loss(post: Post, processes: Worker) -> None:
    """The running task is killed from outside; the scheduler hears it once."""
    id_ = post.send("sample.sleeps", 60)
    until(lambda: [it for it in processes.notes() if it.startswith(f"start {id_}")], "a start")
    post.app.control.revoke(id_, terminate=True)
    assert post.wait(id_).short == ("lost", "lost", "TaskRevoked")
    post.settled()
    assert len(post.told(id_)) == 1


def test_a_revoke_of_a_task_that_runs_elsewhere_is_no_ending(post: Post, processes: Worker, threads: Worker) -> None:
    """Every worker hears of a revoke; only one that discards or stops the task may say so."""
    id_ = post.send("sample.sleeps", 1.0)
    until(lambda: [it for it in processes.notes() if it.startswith(f"start {id_}")], "a start")
    post.app.control.revoke(id_, reply=True, timeout=0.5)
    assert post.wait(id_).output == "slept"
    assert len(post.told(id_)) == 1


@pytest.mark.parametrize(
    ("what", "body", "headers"),
    [
        ("args null", [None, {}, {}], {}),
        ("kwargs no mapping", [[1], [2], {}], {}),
        ("no list", {"a": 1}, {}),
        ("a number", 5, {}),
        ("null", None, {}),
        ("two parts", [[1], {}], {}),
        ("four parts", [[1], {}, {}, {}], {}),
        ("embed a list", [[1], {}, [1]], {}),
        ("bad eta", GOOD_BODY, {"eta": "soon"}),
        ("eta a number", GOOD_BODY, {"eta": 12}),
        ("bad expires", GOOD_BODY, {"expires": [1]}),
        ("timelimit text", GOOD_BODY, {"timelimit": "soon"}),
        ("timelimit texts", GOOD_BODY, {"timelimit": ["a", "b"]}),
        ("timelimit a number", GOOD_BODY, {"timelimit": 3}),
        ("timelimit short", GOOD_BODY, {"timelimit": [1]}),
        ("not JSON", b"{[", {}),
        ("not UTF-8", b"\xff\xfe", {}),
        ("a refused type", GOOD_BODY, {"content_type": "application/x-python-serialize"}),
    ],
)
def test_a_malformed_message_is_a_loss_and_the_worker_lives(
    alone: Post, request: pytest.FixtureRequest, what: str, body: Any, headers: dict[str, Any]
) -> None:
    """Celery would die of some of these, and the next worker after it; others it would drop in silence."""
    worker: Worker = request.getfixturevalue(alone.queue)
    headers = dict(headers)
    content_type = headers.pop("content_type", None)
    if content_type is not None:
        id_ = alone.seed()
        alone.send("sample.add", 1, id_=id_, serializer="pickle")
    else:
        id_ = alone.send_raw(body, **headers)
    end, kind, type_ = alone.wait(id_).short
    assert (end, kind) == ("lost", "lost"), what
    alone.settled()
    assert len(alone.told(id_)) == 1
    assert worker.alive()
    if type_ == "MessageRejected":  # it never became a task, so it is kept as well
        [dead] = until(lambda: [it for it in alone.dead() if it["id"] == id_], "the dead letter")
        assert dead["cause"]
        assert dead["queue"] == alone.queue
        assert dead["form"] == "kombu"
        assert base64.b64decode(dead["body"]) == dead_body(body) or content_type is not None


def test_a_message_without_id_is_dropped_and_the_queue_moves(alone: Post, request: pytest.FixtureRequest) -> None:
    """For Celery it is a broken connection, over and over; nobody can be told, but the next message runs."""
    alone.send_raw(GOOD_BODY, id=...)
    alone.send_raw(GOOD_BODY, id=[1, 2])
    alone.send_raw(GOOD_BODY, id={"a": 1})
    alone.settled()
    worker: Worker = request.getfixturevalue(alone.queue)
    assert worker.alive()


@pytest.mark.parametrize(
    "headers",
    [{"id": ...}, {"id": [1, 2]}, {"task": ["a"]}, {"task": {"a": 1}}, {"task": None}, {"task": 7, "id": ...}],
)
def test_an_unknown_task_without_a_usable_id_is_dropped(
    either: Post, request: pytest.FixtureRequest, headers: dict[str, Any]
) -> None:
    """Celery cannot even turn such a message down; it is kept with its cause, and the next message runs."""
    before = len(either.dead())
    either.send_raw(GOOD_BODY, **{"task": "sample.nowhere", **headers})
    either.settled()
    until(lambda: len(either.dead()) > before, "the dead letter")
    worker: Worker = request.getfixturevalue(either.queue)
    assert worker.alive()


@pytest.mark.parametrize("body", [[None, {}, {}], [5, {}, {}], [[1], [2], {}], [[1], None, {}]])
def test_a_stranger_s_message_that_calls_nothing_is_kept_too(alone: Post, body: Any) -> None:
    """Celery would find out where the task runs: its caller gets no answer, and nobody else hears of it."""
    id_ = f"stranger-{alone.queue}-{body}"  # both queues have one inbox
    alone.send_raw(body, id_)
    [dead] = until(lambda: [it for it in alone.dead() if it["id"] == id_], "the dead letter")
    assert json.loads(base64.b64decode(dead["body"])) == body
    alone.settled()


@pytest.mark.parametrize(
    "entry",
    [b"garbage", b"\xff\xfe", b"[]", b"5", b"{}", b'{"properties": {}}', b'{"properties": {"delivery_tag": "x"}}', b""],
)
def test_an_entry_that_is_no_message_is_put_aside(alone: Post, request: pytest.FixtureRequest, entry: bytes) -> None:
    """Whoever pushes into the queue's list kills no worker, and what was pushed is kept byte for byte."""
    before = len(alone.dead())
    alone.client.lpush(alone.queue, entry)
    alone.settled()
    dead = until(lambda: alone.dead()[before:], "the dead letter")[0]
    assert (dead["form"], dead["queue"], base64.b64decode(dead["body"])) == ("raw", alone.queue, entry)
    worker: Worker = request.getfixturevalue(alone.queue)
    assert worker.alive()


def test_a_flood_of_garbage_is_counted_and_not_kept(start: Start, store: str) -> None:
    """At most 50 rejected messages a second are told of; the worker says how many were not, and so does the next."""
    worker = start("flooded", "-P", "threads", "-c", "1")
    post = Post(store, worker.queue)
    began = time.monotonic()
    post.client.lpush(post.queue, *(b"garbage %d" % number for number in range(2_000)))
    post.settled()
    mine = [it for it in post.dead() if it["queue"] == post.queue]
    seconds = int(time.monotonic() - began) + 2
    assert 0 < len(mine) <= 50 * seconds

    def passed_over() -> int:
        described = json.loads(post.client.hget("cel:workers", worker.hostname) or b"{}")
        return int(described.get("refused", {}).get("passed over", 0))

    until(lambda: len([it for it in post.dead() if it["queue"] == post.queue]) + passed_over() == 2_000, "all", 30)
    until(lambda: time.monotonic() > began + seconds, "another second")
    post.client.lpush(post.queue, b"one more")
    last = until(lambda: [it for it in post.dead() if base64.b64decode(it["body"]) == b"one more"], "the last")[0]
    told = [it for it in post.dead() if it["queue"] == post.queue]
    assert len(told) + sum(it["passed_over"] for it in told) == 2_001
    assert last["passed_over"] > 0
    assert worker.alive()


def dead_body(body: Any) -> bytes:
    """A body as kombu sends it."""
    return body if isinstance(body, bytes) else json.dumps(body).encode()
