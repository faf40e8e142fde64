"""Somebody may be waiting for a single node while much else is on: it goes out before the rest has its turn."""

from __future__ import annotations

import pytest

from scheduler.core.states import NodeState, RunState
from scheduler.graph import Graph
from scheduler.service import loop
from scheduler.service.pacing import HURRIED, PRESSED
from scheduler.service.transport import MemoryTransport, Outgoing
from scheduler.wire import BUNDLES, RunId
from tests.integration.echo import INTERACTIVE, Echo, tasks
from tests.integration.gate import Gate
from tests.integration.stage import Stage, eventually

MANY = 20


class Looking(MemoryTransport):
    """Remembers what was recorded of one run when a node of an interactive class was sent."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.run: RunId | None = None
        self.states: list[str] = []

    def send(self, outgoing: Outgoing) -> None:
        if self.run is not None and any(template.queue == INTERACTIVE for template, _ in outgoing):
            self.states = list(self.stage.states(self.run).values())
        super().send(outgoing)


def announced(stage: Stage, queue_class: str) -> None:
    """As if a worker of that class were there."""
    said = {"queue_class": queue_class, "concurrency": 1, "heartbeat_seconds": 600, "queues": [], "bundles": [BUNDLES]}
    stage.attempts.announce_worker(f"{queue_class}@here", said)


def wide() -> Graph:
    """Many nodes that wait for nothing."""
    graph = Graph("wide")
    for n in range(MANY):
        graph.add("echo", key=f"n{n}")
    return graph


@pytest.mark.parametrize(("hurried", "shard"), [(True, 1), (True, 0), (False, 1), (False, 0)])
def test_a_single_node_goes_out_before_a_flood_of_reports_is_recorded(
    stage: Stage, worker: Echo, monkeypatch: pytest.MonkeyPatch, hurried: bool, shard: int
) -> None:
    """They were read together, and the flood came first, perhaps in the very same inbox. Where no interactive worker
    lives, everything goes in one.
    """
    gate, transport = Gate(monkeypatch), Looking(stage)
    if hurried:
        announced(stage, "interactive-low")
    with stage.scheduler(transport) as scheduler:
        run = stage.submit(wide(), shard=0)
        eventually(lambda: len(tasks(transport)) == MANY, "all are out")
        assert scheduler._dispatch.pace == (HURRIED if hurried else 1.0)
        gate.shut()
        worker.take(tasks(transport))
        single = Graph("single")
        single.add("echo", key="it", queue_class="interactive-low")
        transport.run = run
        last = stage.submit(single, shard=shard)
        gate.open.set()
        eventually(lambda: len(tasks(transport)) > MANY, "the single node is sent")
        recorded = transport.states.count(NodeState.SUCCEEDED.word)
        assert recorded == (0 if hurried else MANY)
        worker.take(tasks(transport)[MANY:])
        assert stage.ended(run, last) == ["succeeded", "succeeded"]


def test_the_end_of_a_single_node_is_recorded_before_a_flood_of_reports(
    stage: Stage, worker: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although these came first, into the same inbox. All of them are recorded once."""
    monkeypatch.setattr(loop, "HURRIED_SECONDS", 0.0)  # one entry a turn
    announced(stage, "interactive-low")
    gate, transport = Gate(monkeypatch), MemoryTransport()
    single = Graph("single")
    single.add("echo", key="it", queue_class="interactive-low")
    with stage.scheduler(transport) as scheduler:
        run, last = stage.submit(wide(), shard=0), stage.submit(single, shard=0)
        eventually(lambda: len(tasks(transport)) == MANY + 1, "all are out")
        gate.shut()
        worker.take(it for it in tasks(transport) if it.node != "it")
        worker.take(it for it in tasks(transport) if it.node == "it")
        gate.once()
        assert stage.runs.summary(last).state is RunState.SUCCEEDED
        gate.open.set()
        assert stage.ended(run, last) == ["succeeded"] * 2
        assert scheduler.counts["late"] == 0


def test_a_single_node_does_not_go_before_what_may_concern_it(
    stage: Stage, worker: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was submitted after a request was made finds that done, and so the reports before that recorded."""
    announced(stage, "interactive-low")
    gate, transport = Gate(monkeypatch), Looking(stage)
    single = Graph("single")
    single.add("echo", key="it", queue_class="interactive-low")
    with stage.scheduler(transport):
        run, other = stage.submit(wide(), shard=0), stage.submit(single, shard=0)
        eventually(lambda: len(tasks(transport)) == MANY + 1, "all are out")
        gate.shut()
        worker.take(it for it in tasks(transport) if it.id.split(".")[1] == run)
        stage.runs.cancel(other, "no more")
        transport.run = run
        last = stage.submit(single, shard=0)
        gate.open.set()
        eventually(lambda: len(tasks(transport)) > MANY + 1, "the single node is sent")
        assert transport.states.count(NodeState.SUCCEEDED.word) == MANY
        worker.take(tasks(transport)[MANY + 1 :])
        assert stage.ended(run, last, other) == ["succeeded", "succeeded", "cancelled"]


def test_a_single_node_goes_out_between_the_parts_of_a_flood(
    stage: Stage, worker: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a flood has reported is recorded in one turn, what that makes ready is recorded as sent in the next, and is
    sent in a third; a single node that comes between any two of them goes out in the turn it is read in.
    """
    announced(stage, "interactive-low")
    gate, transport = Gate(monkeypatch), MemoryTransport()
    twice = Graph("twice")
    for n in range(MANY):
        twice.add("echo", key=f"second{n}", after=[twice.add("echo", key=f"first{n}")])

    def single(key: str = "it", queue_class: str | None = "interactive-low") -> None:
        graph = Graph("single")
        graph.add("echo", key=key, queue_class=queue_class)
        singles.append(stage.submit(graph, shard=1))

    def sent() -> list[str]:
        return [task.node[:5] for task in tasks(transport)][MANY:]

    singles: list[RunId] = []
    with stage.scheduler(transport):
        run = stage.submit(twice, shard=0)
        eventually(lambda: len(tasks(transport)) == MANY, "the first of each pair are out")
        gate.shut()
        worker.take(tasks(transport))
        gate.once()
        states = list(stage.states(run).values())
        assert (states.count("succeeded"), states.count("dispatched"), sent()) == (MANY, 0, [])
        single()
        gate.once()
        assert sent() == ["it"]
        assert list(stage.states(run).values()).count("dispatched") == MANY, "they are recorded, and not sent yet"
        single()
        single("batch", None)
        gate.once()
        assert sent() == ["it", "it", *["secon"] * MANY]
        assert gate.block_ms == 0, "a node of another class came with it, and nothing else would bring its turn"
        gate.once()
        gate.once()
        assert sent()[-1] == "batch"
        gate.open.set()
        worker.take(tasks(transport)[MANY:])
        assert stage.ended(run, *singles) == ["succeeded"] * 4


def test_while_a_single_node_is_out_turns_are_short(stage: Stage, worker: Echo) -> None:
    """Its report may come at any moment, among many others; with little else out there is no need."""
    announced(stage, "interactive-low")
    transport = MemoryTransport()
    with stage.scheduler(transport) as scheduler:
        single = Graph("single")
        single.add("echo", key="it", queue_class="interactive-low")
        stage.submit(single)
        eventually(lambda: len(tasks(transport)) == 1, "it is out")
        assert scheduler._dispatch.pace == HURRIED
        stage.submit(wide())
        eventually(lambda: len(tasks(transport)) == 1 + MANY, "the others are out")
        assert scheduler._dispatch.pace == PRESSED
        worker.take(tasks(transport)[:1])
        eventually(lambda: scheduler._dispatch.pace == HURRIED, "it has ended")
        worker.take(tasks(transport)[1:])
        eventually(stage.quiet, "quiet")
