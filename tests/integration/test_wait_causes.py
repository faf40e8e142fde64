"""Why ready nodes wait stands in their run's log: when it lasts, when it changes, for many nodes in one line."""

from __future__ import annotations

import json
import re

import pytest

from scheduler import Client
from scheduler.service import waits
from scheduler.service.transport import MemoryTransport
from scheduler.service.waits import spans
from scheduler.wire import RunId
from tests.integration.echo import AtOnce, Echo, Task, echo, tasks, value
from tests.integration.stage import Stage, eventually, idle, layers


@pytest.fixture(autouse=True)
def moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment is shorter than in production; nothing else is changed."""
    monkeypatch.setattr(waits, "MOMENT_SECONDS", 0.1)
    monkeypatch.setattr(waits, "UNCHANGED_SECONDS", 0.1)


def announce(stage: Stage, queue_class: str = "standard-low") -> None:
    """A worker that serves a class, heard of this very moment."""
    described = {"seen_at_ms": stage.runs.now_ms(), "queue_class": queue_class, "heartbeat_seconds": 600}
    stage.client.hset(stage.keys.workers, "w", json.dumps(described))


def notes(stage: Stage, run: RunId) -> list[str]:
    """Why its nodes waited, in order."""
    return [why for _, word, _, _, why in stage.moves(run) if word == "wait"]


def test_a_full_class_and_a_class_without_workers_are_told_once_each(stage: Stage, memory: MemoryTransport) -> None:
    """One line for all nodes of the run, a further one when the cause changes; `why` shows them with their instants."""
    run = stage.submit(layers(20))
    with stage.scheduler(memory, standard_low={"window": 3}), Client(stage.url, namespace=stage.namespace) as client:
        eventually(lambda: notes(stage, run), "the first note")
        announce(stage)
        eventually(lambda: len(notes(stage, run)) == 2, "the second")
        sent = {task.node for task in tasks(memory)}
        [waiting] = [key for key in stage.load(run).keys[-1:] if key not in sent]
        found = client.run(run).explain(waiting)
        assert [it.why for it in found.waits] == notes(stage, run)
        assert found.waits[0].at_ms <= found.waits[1].at_ms
        assert found.needs == (f"{found.waits[1].why} ({found.waits[1].id})",)
        assert client.run(run).explain(sent.pop()).waits == ()
        assert [re.sub("[0-9]+", "N", why) for why in notes(stage, run)] == [
            "N ready nodes cannot go out: no worker serves the queue class 'standard-low'",
            "N ready nodes wait for room in the queue class 'standard-low': N attempts of it are in flight",
        ]
        stage.runs.cancel(run, "enough")
        eventually(lambda: stage.runs.summary(run).state == "cancelled", "the end")


def test_nodes_that_come_to_wait_later_are_told_too(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """With their own numbers, and not those that are named already."""
    announce(stage)
    held: list[Task] = []

    def act(task: Task) -> object:
        if len(held) < 3:
            held.append(task)
            return None
        return echo(task)

    worker.act = act  # type: ignore[assignment]  # an Ending or None
    with stage.scheduler(at_once, standard_low={"window": 3}):
        first = stage.submit(layers(3), shard=0)
        eventually(lambda: len(held) == 3, "a full class")
        second = stage.submit(layers(2, 2), shard=0)
        eventually(lambda: notes(stage, second), "its note")
        third = stage.submit(layers(4), shard=1)
        eventually(lambda: notes(stage, third), "the other's note")
        worker.attempts.report([worker.report(task.id, value(1), 1) for task in held])
        assert stage.ended(first, second, third) == ["succeeded"] * 3
    assert notes(stage, first) == []
    [why] = notes(stage, second)
    assert why.startswith("2 ready nodes wait for room")
    told = [it for _, _, told in stage.runs.history(second) for it in told.values() if "nodes" in it]
    assert [(it["cause"], it["queue_class"], it["nodes"]) for it in told] == [("full", "standard-low", [[0, 1]])]
    idle(stage)


def test_what_waits_for_less_than_a_moment_writes_nothing(
    stage: Stage, worker: Echo, at_once: AtOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wide run whose class has room again and again; a moment is longer here than the run."""
    monkeypatch.setattr(waits, "MOMENT_SECONDS", 60.0)
    announce(stage)
    with stage.scheduler(at_once):
        run = stage.submit(layers(300, 2))
        assert stage.ended(run) == ["succeeded"]
    assert notes(stage, run) == []


def test_many_nodes_are_a_few_spans() -> None:
    """Bounded, whatever the nodes."""
    assert spans(range(5, 5000)) == [[5, 4999]]
    assert len(spans(range(0, 5000, 2))) == waits.MOST_SPANS


def test_a_message_that_no_worker_takes_is_told(stage: Stage, memory: MemoryTransport) -> None:
    """When it is first looked for and found in its queue."""
    run = stage.submit(layers(1))
    with stage.scheduler(memory), Client(stage.url, namespace=stage.namespace) as client:
        eventually(lambda: len(tasks(memory)) == 1, "the message")
        stage.lease_ends(stage.attempt(run))
        eventually(lambda: notes(stage, run), "the note")
        told = ["1 message of sent nodes wait in the queue of class 'standard-low', for a worker"]
        assert notes(stage, run) == told
        assert [it.why for it in client.run(run).explain(stage.load(run).keys[0]).waits] == notes(stage, run)
        stage.runs.cancel(run, "enough")
        eventually(lambda: stage.runs.summary(run).state == "cancelled", "the end")
