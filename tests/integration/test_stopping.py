"""Cancelled runs and runs past their deadline."""

from __future__ import annotations

import json

import pytest

from scheduler.core import verbs
from scheduler.graph import Graph
from scheduler.service.transport import MemoryTransport
from tests.integration.echo import AtOnce, Echo, tasks, value
from tests.integration.stage import Stage, diamond, dump, eventually, idle


def test_a_run_cancelled_before_it_began_never_begins(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """Submit and cancel that are read together leave nothing sent."""
    run = stage.submit(diamond())
    stage.runs.cancel(run, "changed my mind")
    with stage.scheduler(at_once):
        assert stage.ended(run) == ["cancelled"]
    assert stage.runs.summary(run).reason == "cancelled: changed my mind"
    idle(stage)


def test_a_claimed_attempt_gets_a_grace_and_what_only_waits_none(stage: Stage, memory: MemoryTransport) -> None:
    """What runs may still end by itself, and its output counts; what was only sent is refused from then on."""
    worker = Echo(stage.attempts)
    graph = Graph("cancel")
    a = graph.add("echo", key="running")
    graph.add("echo", key="sent")
    graph.add("echo", key="pending", after=a)
    with stage.scheduler(memory):
        run = stage.submit(graph)
        eventually(lambda: len(memory.sent) == 2)
        by_node = {task.node: task.id for task in tasks(memory)}
        [claim] = stage.attempts.claim([by_node["running"]], worker.name, "t")
        stage.runs.cancel(run, "stop")
        stage.runs.cancel(run, "stop again")
        eventually(lambda: stage.runs.summary(run).state == "cancelling")
        assert stage.states(run) == {"running": "dispatched", "sent": "cancelled", "pending": "cancelled"}
        assert stage.attempts.claim([by_node["sent"]], "w", "u")[0].verdict == "stale"
        assert stage.attempts.renew([by_node["running"]], worker.name) == {by_node["running"]: False}
        stage.attempts.report([worker.report(by_node["running"], value("just in time"), claim.now_ms)])
        assert stage.ended(run) == ["cancelled"]
    assert stage.states(run)["running"] == "succeeded"
    assert stage.runs.values(run, [0]) == {0: b'"just in time"'}
    assert stage.runs.summary(run).reason == "cancelled: stop"
    idle(stage)


@pytest.mark.parametrize("restart", [False, True], ids=["same scheduler", "another scheduler"])
def test_what_does_not_end_within_the_grace_is_cancelled(
    stage: Stage, memory: MemoryTransport, monkeypatch: pytest.MonkeyPatch, restart: bool
) -> None:
    """Nobody waits for a worker that does not listen; also when all that was open runs, and the scheduler changes."""
    monkeypatch.setattr(verbs, "GRACE_MS", 20_000 if restart else 50)
    graph = Graph("grace")
    graph.add("echo", key="running")
    with stage.scheduler(memory):
        run = stage.submit(graph)
        [task] = eventually(lambda: tasks(memory))
        stage.attempts.claim([task.id], "w", "t")
        stage.runs.cancel(run, "stop")
        if restart:
            eventually(lambda: stage.runs.summary(run).state == "cancelling")
        else:
            assert stage.ended(run) == ["cancelled"]
    if restart:
        monkeypatch.setattr(verbs, "GRACE_MS", 50)
        with stage.scheduler(memory):
            assert stage.ended(run) == ["cancelled"]
    assert stage.states(run) == {"running": "cancelled"}
    idle(stage)


def test_a_cancellation_of_what_is_over_or_unknown_changes_nothing(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """It is consumed, and that is all; whatever its reason holds."""
    with stage.scheduler(at_once):
        run = stage.submit(diamond())
        stage.ended(run)
        before = dump(stage.client)
        stage.runs.cancel(run, "too late \ud800")
        stage.runs.cancel(stage.new_id(), "no such run")
        eventually(stage.quiet)
        after = dump(stage.client)
    changed = {key for key in before | after if before.get(key) != after.get(key)}
    assert all(key.endswith((b":inbox", b":owners", b":schedulers", b":commits")) for key in changed)


def test_a_reason_that_is_no_text_does_not_stop_the_loop(stage: Stage, memory: MemoryTransport) -> None:
    """A lone surrogate in a reason, as other clients may send it, is stored as a question mark."""
    with stage.scheduler(memory):
        run = stage.submit(diamond())
        eventually(lambda: memory.sent)
        body = json.dumps({"run": run, "reason": "\ud800!"})
        stage.client.xadd(stage.keys.shard(stage.runs.shard(run)).inbox, {"cancel": body})
        assert stage.ended(run) == ["cancelled"]
    assert stage.runs.summary(run).reason == "cancelled: ?!"


def test_a_run_past_its_deadline_fails_and_stops(stage: Stage, memory: MemoryTransport) -> None:
    """Whatever runs is cut off, nothing new begins, and the reason says why."""
    graph = Graph("deadline")
    a = graph.add("echo", key="a")
    graph.add("echo", key="b", after=a)
    with stage.scheduler(memory):
        run = stage.submit(graph, deadline_ms=150)
        [task] = eventually(lambda: tasks(memory))
        assert task.headers["celeriac"]["deadline_at_ms"] == stage.runs.summary(run).created_at_ms + 150
        assert stage.ended(run) == ["failed"]
        assert stage.attempts.claim([task.id], "w", "t")[0].verdict == "stale"
    summary = stage.runs.summary(run)
    assert summary.reason == "the run's deadline passed"
    assert summary.ended_at_ms is not None
    assert summary.ended_at_ms - summary.created_at_ms >= 150
    assert set(stage.states(run).values()) == {"cancelled"}
    assert len(memory.sent) == 1
    idle(stage)


def test_a_run_that_ends_in_time_leaves_no_deadline(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """Its timer goes with it."""
    with stage.scheduler(at_once):
        assert stage.ended(stage.submit(diamond(), deadline_ms=60_000)) == ["succeeded"]
    idle(stage)
