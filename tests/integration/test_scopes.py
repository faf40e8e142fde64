"""Pauses of a graph, a queue class and an executor, on a real Redis: nothing of theirs is sent, by any scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from scheduler import Client, InvalidValue, RunHandle
from scheduler.core import verbs
from scheduler.graph import Graph
from tests.integration.echo import AtOnce, Echo, echo, value
from tests.integration.stage import Stage, eventually, idle, layers


@pytest.fixture
def client(stage: Stage) -> Iterator[Client]:
    """A client of the stage, that knows its classes."""
    with Client(stage.url, namespace=stage.namespace, settings=stage.settings()) as found:
        yield found


def one(name: str = "one") -> Graph:
    """A graph of two nodes."""
    graph = Graph(name)
    graph.add("echo", key="b", x=graph.add("echo", key="a"))
    return graph


def waits(stage: Stage, handle: RunHandle, why: str) -> None:
    """Wait until a node waits for this reason, in the view and in the log."""
    eventually(lambda: any(move[1] == "wait" and why in move[4] for move in stage.moves(handle.id)), why)
    assert why in {it.key: it.why for it in handle.nodes()}["a"]


@pytest.mark.parametrize(
    ("scope", "why"),
    [
        ({"graph": "one"}, "the graph 'one' is paused by ann: prices change"),
        ({"queue_class": "standard-low"}, "the queue class 'standard-low' is paused by ann: prices change"),
        ({"executor": "echo"}, "the executor 'echo' is paused by ann: prices change"),
    ],
    ids=["graph", "class", "executor"],
)
def test_what_is_paused_is_not_sent_until_it_is_resumed(
    stage: Stage, worker: Echo, at_once: AtOnce, client: Client, scope: dict[str, str], why: str
) -> None:
    """Also runs that are submitted later, and under a new owner; nodes say why they wait."""
    with stage.scheduler(at_once):
        assert client.pause(**scope, reason="prices change", by="ann")
        assert not client.pause(**scope, reason="again", by="bob")
        run = client.submit(one())
        waits(stage, run, why)
    stage.owners_vanish()
    with stage.scheduler(at_once):
        other = client.submit(Graph.from_document(one("two").document()), check=False)
        if scope == {"graph": "one"}:
            assert other.wait(20) == "succeeded"
        else:
            waits(stage, other, why)
        assert run.state == "running"
        assert not [task for task in worker.done if run.id in task.id]
        [paused] = client.paused()
        assert (paused.by, paused.reason) == ("ann", "prices change")
        assert client.resume(**scope)
        assert not client.resume(**scope)
        assert stage.ended(run.id, other.id) == ["succeeded"] * 2
    assert client.paused() == []
    idle(stage)


def test_ready_nodes_that_wait_for_room_are_held_back_too(
    stage: Stage, worker: Echo, at_once: AtOnce, client: Client
) -> None:
    """A pause that comes while a class is full keeps what is left; each node is sent once in the end."""
    worker.act = lambda task: None
    with stage.scheduler(at_once, standard_low={"window": 2, "concurrency": 1, "prefetch": 1}):
        run = stage.submit(layers(5))
        handle = client.run(run)
        eventually(lambda: len(worker.done) == 2, "the class is full")
        client.pause(graph="layers", by="ann")
        eventually(lambda: sum(move[1] == "wait" for move in stage.moves(run)) == 3, "three are held back")
        worker.attempts.report([worker.report(task.id, value(1), 1) for task in worker.done])
        eventually(lambda: list(stage.states(run).values()).count("succeeded") == 2, "two end")
        assert len(worker.done) == 2
        worker.act = echo
        client.resume(graph="layers")
        assert handle.wait(20) == "succeeded"
    assert sorted(worker.nodes()) == sorted({task.node for task in worker.done})
    idle(stage)


def test_all_live_runs_of_a_graph_are_cancelled(
    stage: Stage, worker: Echo, at_once: AtOnce, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one call; others, and what has ended, stay."""
    monkeypatch.setattr(verbs, "GRACE_MS", 50)
    with stage.scheduler(at_once):
        done = client.submit(one())
        assert done.wait(20) == "succeeded"
        worker.act = lambda task: None
        live = [client.submit(one()) for _ in range(3)]
        other = client.submit(one("two"))
        eventually(lambda: len(worker.done) == 6, "all are out")
        assert set(client.cancel_runs("one", "enough", "ann")) == {it.id for it in live}
        client.cancel_runs("two")
        assert stage.ended(*(it.id for it in live), other.id, seconds=40) == ["cancelled"] * 4
        assert live[0].summary().reason == "cancelled by ann: enough"
    idle(stage)


def test_a_scope_is_named_by_exactly_one_name(client: Client) -> None:
    """And a class must be declared."""
    with pytest.raises(InvalidValue, match="names none"):
        client.pause()
    with pytest.raises(InvalidValue, match="names several"):
        client.pause(graph="a", executor="b")
    with pytest.raises(InvalidValue, match="is no declared queue class"):
        client.pause(queue_class="nothing-such")
    assert client.paused() == []


def test_the_same_for_coroutines(client: Client) -> None:
    """Every verb has its twin."""

    async def ask() -> None:
        assert await client.apause(graph="x", by="ann")
        assert [it.name for it in await client.apaused()] == ["x"]
        assert await client.aresume(graph="x")
        assert await client.acancel_runs("x") == []

    asyncio.run(ask())
