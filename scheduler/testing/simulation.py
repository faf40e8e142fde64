"""What a simulation tells: how a run ended, what each node did, and every decision on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..core.events import Decision, Event
from ..core.run import Run
from ..core.states import ENDED_RUNS, IN_FLIGHT, RunState
from ..core.waiting import wait_of
from ..errors import shown
from .outcomes import Call


class Line(NamedTuple):
    """One line of a run's log.

    Attributes:
        at_ms: after the run's start, by the simulation's clock.
        node: its key, "" for the run itself.
        attempt: of the node, 0 before the first.
        word: the move, such as "ready", "retry", "skip"; of the run its new state; or the word of a note.
        why: the reason, as a real log has it.
        cause: key of the upstream node that brought it about, "" for none.
    """

    at_ms: int
    node: str
    attempt: int
    word: str
    why: str
    cause: str

    def __str__(self) -> str:
        who = f"{self.node}.{self.attempt}" if self.node else "the run"
        return f"{self.at_ms / 1000:.3f} s  {who}: {self.word}{': ' if self.why else ''}{self.why}"


class Decided(NamedTuple):
    """One event and what the core decided; for Coverage.

    Attributes:
        rungs: node -> the step of its retry ladder on which it stands afterwards, of those that this moved.
    """

    event: Event
    decision: Decision
    rungs: Mapping[int, int]


@dataclass(frozen=True)
class Simulation:
    """A run that was played through the core.

    Attributes:
        graph: the graph's hash.
        state: of the run: "succeeded", "failed" or "cancelled"; "running" when it waits (may_wait).
        why: the reason of that.
        states: key -> word of the node's state.  attempts: key -> how many it had.
        outputs: key -> output of those that succeeded.  errors: key -> error record of those that failed, or were
            withdrawn from a race.
        result: the output of the node that the graph returns; None when it returns none, or has no output.
        log: every line, in order.
        calls: key -> the attempts that went to an executor, with their inputs.
        seconds: how long it took by its own clock.
        waits: what it waits for, when it has not ended.
        unused: scripted outcomes, signals and answers that were not needed, such as "signal 'paid'".
        decided: every decision.  asked: every safety check that was asked, see Governing.
    """

    graph: str
    state: RunState
    why: str
    states: dict[str, str]
    attempts: dict[str, int]
    outputs: dict[str, Any]
    errors: dict[str, dict[str, Any]]
    result: Any
    log: tuple[Line, ...]
    calls: dict[str, tuple[Call, ...]]
    seconds: float
    waits: tuple[str, ...]
    unused: tuple[str, ...]
    decided: tuple[Decided, ...] = field(repr=False)
    asked: tuple[tuple[str, str, str], ...] = field(default=(), repr=False)

    @property
    def path(self) -> tuple[str, ...]:
        """The way the run went, without instants and values: node, attempt and move of each line, in order.

        Equal for two runs of one graph whose nodes did the same in the same order, whoever executed them.
        """
        return tuple(f"{it.node}.{it.attempt} {it.word}" if it.node else f"run {it.word}" for it in self.log)

    def why_of(self, node: str) -> str:
        """The reason of the node's last move that has one; "" when none has."""
        return next((it.why for it in reversed(self.log) if it.node == node and it.why), "")


def waits_of(run: Run) -> tuple[str, ...]:
    """What a run that has not ended waits for, a sentence for each node that does."""
    found = []
    for node, state in enumerate(run.state if run.run_state not in ENDED_RUNS else ()):
        name = f"node {shown(run.keys[node])}"
        wait = wait_of(run, node)
        if state in IN_FLIGHT:
            found.append(f"attempt {run.attempt[node]} of {name} waits for a worker")
        elif node in run.handed:
            found.append(f"{name} waits for somebody outside to end its job")
        elif wait is not None and wait.kind == "signal":
            found.append(f"{name} waits for signal {shown(wait.name)}")
        elif wait is not None:
            found.append(f"{name} asks {shown(wait.question)}: {', '.join(wait.choices)}")
    return tuple(found)
