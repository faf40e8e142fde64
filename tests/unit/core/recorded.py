"""A random run, played through the core and written down as the service's own batches write it: log, records, facts."""

from __future__ import annotations

import json
import random
from typing import Any

from scheduler.core.decide import decide
from scheduler.core.events import (
    Admitted,
    CancelRequested,
    Decision,
    Event,
    LeaseExpired,
    Opened,
    PauseRequested,
    Reported,
    ResumeRequested,
    RetryDue,
    RetryRequested,
)
from scheduler.core.evolve import evolve
from scheduler.core.guards import Facts
from scheduler.core.history import Line, lines_of
from scheduler.core.recorded import FOLLOWS
from scheduler.core.run import Run
from scheduler.core.states import ENDED_RUNS, IN_FLIGHT, NodeState, RunState
from scheduler.graph import Graph
from scheduler.service.batch import Batch
from scheduler.store.keys import ShardKeys
from tests.unit.core.played import RUN, T0

KINDS = ("transient", "timeout", "permanent", "rate_limited")


class Journal:
    """One run with its log.

    Attributes:
        run: as its owner has it in memory.
        entries: of the log, as the store gives them back.
        records, values: node -> what the store keeps.
    """

    def __init__(self, graph: Graph, *, told: bool = True) -> None:
        compiled = graph.compile()
        self.header, self.pages = compiled.header, list(compiled.pages())
        self.run = self.load()
        self.now = T0
        self.told = told
        self.entries: list[tuple[str, list[list[Any]], dict[int, dict[str, Any]]]] = []
        self.records: dict[int, bytes] = {}
        self.values: dict[int, Any] = {}
        self.brought: dict[int, Any] = {}
        self.happen(Opened())

    def load(self, records: Any = ()) -> Run:
        """The run of this graph with these records."""
        return Run.load(RUN, self.header, self.pages, records, created_at_ms=T0)

    @property
    def lines(self) -> list[Line]:
        """The log, as lines."""
        return lines_of(self.entries)

    def happen(self, *events: Event) -> list[Decision]:
        """Decide and apply events in one batch, which is written down."""
        self.now += 1
        batch = Batch(ShardKeys("cel", 0), "1", self.now)
        found = []
        for event in events:
            decision = decide(self.run, event, self.now)
            found.append(decision)
            if decision.stale:
                continue
            attempt = self.run.attempt_id(0, event.node) if isinstance(event, Reported | LeaseExpired) else ""
            evolve(self.run, decision, self.now)
            follows = type(event) in FOLLOWS or (isinstance(event, Reported) and event.end == "succeeded")
            if self.told and (not follows or getattr(event, "facts", None) is not None):
                batch.heard(self.run, event)
            if isinstance(event, Admitted):
                batch.send(self.run, [(move.node, "", "", 0, "") for move in decision.moves])
            else:
                ended = isinstance(event, Reported) and event.end == "succeeded"
                output = json.dumps(self.brought[event.node]).encode() if ended else None  # type: ignore[union-attr]
                batch.take(self.run, decision, attempt, output)
        self._write(batch)
        return found

    def _write(self, batch: Batch) -> None:
        page = batch.pages.get(self.run.id)
        if page is None or not page.log:
            return
        moves = json.loads(json.dumps(page.log).encode("utf-8", "replace"))
        told = {at: json.loads(json.dumps(it)) for at, it in page.told}
        self.entries.append((f"{self.now}-{len(self.entries)}", moves, told))
        self.records |= {node: self.run.record(node).encode() for node in page.dirty}
        self.values |= {node: json.loads(raw) for node, raw in page.values.items()}

    def dies(self) -> None:
        """The owner dies: the next one loads the run from its records and opens it."""
        before = self.run
        run = self.run = self.load(self.records.items())
        run.run_state, run.reason, run.facts = before.run_state, before.reason, dict(before.facts)
        run.floor = before.floor
        self.happen(Opened())

    def rewinds(self) -> None:
        """The store has lost commits: new attempts get higher numbers, and the log says so."""
        self.now += 1
        self.run.raise_floor(self.now)
        batch = Batch(ShardKeys("cel", 0), "1", self.now)
        batch.renumber(self.run, "the store went back in time")
        self._write(batch)
        self.dies()

    def facts_of(self, node: int, epoch: int) -> Facts | None:
        """What expressions read of a stored output."""
        guards = self.run.guards
        if guards is None or self.run.epoch[node] != epoch or node not in self.values:
            return None
        return guards.facts(node, "output", self.values[node])

    def unsafe(self, node: int) -> bool:
        """Whether the node's executor is; versions whose logs tell no events knew no such thing."""
        return self.told and node % 5 == 1

    def report(
        self, node: int, end: str, chance: random.Random, *, value: Any = None, kind: str = "transient"
    ) -> Reported:
        """A worker's report on the current attempt."""
        run = self.run
        error = None if end == "succeeded" else {"kind": kind, "type": "Broken", "message": "it broke"}
        if end == "lost":
            error = {"kind": "lost", "type": chance.choice(["WorkerLost", "WorkerShutdown"]), "message": "gone"}
        facts = None
        if end == "succeeded" and run.guards is not None and node in run.guards.wanted:
            facts = run.guards.facts(node, "output", value)
        if end == "succeeded":
            self.brought[node] = value
        output = "inline" if end == "succeeded" else "none"
        after = chance.choice([None, None, 90_000]) if end == "failed" else None
        number, epoch = run.attempt[node], run.epoch[node]
        return Reported(node, epoch, number, end, output, "w", self.now, self.now, error, after, chance.random(), facts)


def journal(graph: Graph, values: Any, chance: random.Random, *, told: bool = True, steps: int = 300) -> Journal:
    """A graph played in a random order, with failures, losses, pauses, deaths of its owner, a cancel and retries.

    Args:
        values: key -> output; None for a node whose attempts fail.
        told: whether the log tells events, as this version's does.
    """
    it = Journal(graph, told=told)
    retries = chance.randint(0, 1)
    for _ in range(steps):
        run = it.run
        if run.run_state in ENDED_RUNS:
            if not retries or it.happen(RetryRequested("again"))[0].stale:
                break
            retries -= 1
            it.happen(Opened())
            continue
        step(it, values, chance)
    return it


def step(it: Journal, values: Any, chance: random.Random) -> None:
    """One thing happens."""
    run = it.run
    of = {state: [node for node, one in enumerate(run.state) if one == state] for state in NodeState}
    out = [node for state in IN_FLIGHT for node in of[state]]
    drawn = chance.random()
    if drawn < 0.02:
        it.happen(CancelRequested("enough", frozenset(out[: len(out) // 2])))
    elif drawn < 0.06:
        verb = ResumeRequested if run.run_state is RunState.PAUSED else PauseRequested
        it.happen(verb("a look", "ann"))
    elif drawn < 0.1:
        it.dies() if drawn < 0.09 else it.rewinds()
    elif run.run_state is RunState.PAUSED and not out:
        it.happen(ResumeRequested("", "ann"))
    elif of[NodeState.READY] and run.run_state is RunState.RUNNING and (drawn < 0.5 or not out):
        it.happen(Admitted(of[NodeState.READY][: chance.randint(1, 3)]))
    elif out:
        ends(it, chance.sample(out, min(len(out), chance.randint(1, 2))), values, chance)
    elif of[NodeState.WAITING]:
        node = chance.choice(of[NodeState.WAITING])
        it.happen(RetryDue(node, run.attempt[node]))
    else:
        it.dies()


def ends(it: Journal, nodes: list[int], values: Any, chance: random.Random) -> None:
    """Attempts end, one way or another, in one batch."""
    events: list[Event] = []
    for node in nodes:
        value, drawn = values[it.run.keys[node]], chance.random()
        if drawn < 0.1:
            events.append(it.report(node, "lost", chance)._replace(unsafe=it.unsafe(node)))
        elif drawn < 0.15:
            claimed = chance.choice([None, it.now])
            hard = claimed is not None and chance.random() < 0.5
            attempt = it.run.attempt[node]
            lease = LeaseExpired(node, it.run.epoch[node], attempt, claimed, "w", hard, chance.random())
            events.append(lease._replace(unsafe=it.unsafe(node)))
        elif value is None or drawn < 0.25:
            events.append(it.report(node, "failed", chance, kind=chance.choice(KINDS)))
        else:
            events.append(it.report(node, "succeeded", chance, value={"v": value}))
    it.happen(*events)
