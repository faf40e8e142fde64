"""A graph as users write it, played through the core: who drives it says how attempts end, and reads how nodes stand.

After every event the run is loaded again from its records, as a new owner of its shard does, and must be the same.
"""

from __future__ import annotations

import json
from typing import Any

from scheduler.core.decide import decide
from scheduler.core.events import (
    Admitted,
    Decision,
    Event,
    Opened,
    Reported,
    RetryDue,
    StartLimitPassed,
    TotalLimitPassed,
    WaitOver,
)
from scheduler.core.evolve import evolve
from scheduler.core.run import Run
from scheduler.core.states import MoveKind, NodeState
from scheduler.graph import Graph

T0 = 1_700_000_000_000
RUN = "01jd0c0000000000000000000a"


_TIMERS = {WaitOver: "wait", StartLimitPassed: "start", TotalLimitPassed: "total", RetryDue: "retry"}


def timer_of(event: Event) -> str:
    """The timer whose end an event is."""
    facts: tuple[object, ...] = event  # the node, and the number of its epoch or attempt
    return f"{_TIMERS[type(event)]}:{facts[0]!r}:{facts[1]!r}"


class Played:
    """One run.

    Attributes:
        run: as it stands.
        log: (key, move, why) of every move.
        values: key -> output or error record, as the store would keep it.
        timers: name -> due instant, of those that are set.
    """

    def __init__(self, graph: Graph) -> None:
        compiled = graph.compile()
        self.header, self.pages = compiled.header, list(compiled.pages())
        self.run = Run.load(RUN, self.header, self.pages, created_at_ms=T0)
        self.now = T0
        self.log: list[tuple[str, str, str]] = []
        self.values: dict[str, Any] = {}
        self.timers: dict[str, int] = {}
        self.happen(Opened())

    def happen(self, event: Event) -> Decision:
        """Decide and apply an event, then send whatever is ready."""
        decision = self._apply(event)
        if ready := self._in(NodeState.READY):
            self._apply(Admitted(ready))
        return decision

    def _apply(self, event: Event) -> Decision:
        self.now += 1
        decision = decide(self.run, event, self.now)
        for move in decision.moves:
            key = self.run.keys[move.node]
            self.log.append((key, MoveKind(move.kind).word, move.why))
            if move.error is not None:
                self.values[key] = move.error
            if move.node in decision.outputs:
                self.values[key] = json.loads(decision.outputs[move.node])
        evolve(self.run, decision, self.now)
        self.timers.update({timer.name: timer.due_at_ms for timer in decision.timers})
        gone = set(decision.cancelled) | ({timer_of(event)} if type(event) in _TIMERS else set())
        self.timers = {name: due for name, due in self.timers.items() if name not in gone}
        self._same_when_loaded()
        return decision

    def _same_when_loaded(self) -> None:
        """A run that is loaded from its records knows what this one knows."""
        run = self.run
        still = (NodeState.PENDING, NodeState.READY)
        moved = [node for node in range(run.n) if run.state[node] not in still or run.epoch[node] > 1]
        records = [(node, run.record(node).encode()) for node in moved]
        again = Run.load(RUN, self.header, self.pages, records, created_at_ms=T0)
        assert list(again.tally) == list(run.tally)
        assert again.closed == run.closed
        assert again.bad == run.bad
        assert (again.parked, again.handed, again.leaving) == (run.parked, run.handed, run.leaving)

    def ends(self, key: str, output: Any = None) -> Decision:
        """An attempt succeeds."""
        node = self.run.keys.index(key)
        facts = None if self.run.guards is None else self.run.guards.facts(node, "output", output)
        self.values[key] = output
        return self.happen(self._report(key, "succeeded", None, facts))

    def fails(self, key: str, kind: str = "permanent") -> Decision:
        """An attempt fails."""
        return self.happen(self._report(key, "failed", {"kind": kind, "type": "Broken", "message": "it broke"}, None))

    def number(self, key: str) -> int:
        """The number of a node."""
        return self.run.keys.index(key)

    def wakes(self, key: str) -> Decision:
        """The wait before its next try is over."""
        node = self.run.keys.index(key)
        return self.happen(RetryDue(node, self.run.attempt[node]))

    def _report(self, key: str, end: str, error: dict[str, Any] | None, facts: Any) -> Reported:
        node = self.run.keys.index(key)
        assert self.run.state[node] == NodeState.DISPATCHED, f"{key} is {self.state(key)}"
        output = "inline" if end == "succeeded" else "none"
        attempt, epoch = self.run.attempt[node], self.run.epoch[node]
        return Reported(node, epoch, attempt, end, output, "w", self.now, self.now, error, None, 0.5, facts)

    def state(self, key: str) -> str:
        """Where a node stands, in a word."""
        return NodeState(self.run.state[self.run.keys.index(key)]).word

    def states(self) -> dict[str, str]:
        """Where all stand."""
        return {key: self.state(key) for key in self.run.keys}

    @property
    def sent(self) -> list[str]:
        """Keys of the nodes that are out."""
        return sorted(self.run.keys[node] for node in self._in(NodeState.DISPATCHED))

    def why(self, key: str) -> str:
        """The reason of a node's last move that has one."""
        return next(why for moved, _, why in reversed(self.log) if moved == key and why)

    def _in(self, state: NodeState) -> list[int]:
        return [node for node, it in enumerate(self.run.state) if it == state]
