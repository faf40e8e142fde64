"""Facts that a decision rests on, each with the id of its record; and the decision made of them again.

Pure. `redo` sets up a run in which nothing is known but the facts, gives it to decide, and returns the move that comes
of it: the same as the recorded one, if the facts are what it rested on; another or none, if one of them is taken away.
"""

from __future__ import annotations

import copy
from array import array
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from .decide import decide
from .events import (
    Admitted,
    Completed,
    Decision,
    Event,
    LeaseExpired,
    Move,
    Opened,
    Reported,
    RetryDue,
    RetryRequested,
    Signalled,
)
from .expressions import EvaluationError, Expression
from .guards import Path, Sight
from .history import GOES_ON, KINDS, Line
from .recorded import event_of
from .retry import counts_as_loss
from .run import CLOSED, COUNTED_AS, Run
from .states import FIRST_ENDED, NodeState, RunState
from .waits import Signal

_STOOD = {"dispatched": NodeState.DISPATCHED, "ready": NodeState.READY, "waits": NodeState.WAITING}
STATES: dict[str, NodeState] = {state.word: state for state in NodeState}
EDGE = "policy: edge from "
"""How the reason of a node begins that the guard of an edge without a value has ended."""
LAST_ONE = "; no other, for the run has been "
_COMPARED = 900
"""Characters of what was read that are compared; the log cuts them a little later."""


class Fact(NamedTuple):
    """Something that is recorded and that a decision rests on.

    Attributes:
        id: of a line of the log; "node N" for the record of a node, "graph" for what the graph says.
        node: whose; -1 for the run.
        what: state (a trigger rule counted it), closed (so it did: the edge from that node is), stood (an expression
            read the state), output, error, attempts, ready, dispatched, waits, report, failure, loss, excused,
            parked, handed, signal (that was kept for it), rung (where on its ladder it stood), reopened, run (its
            state), stopped, asked, policy (that the run had taken up).
        value: JSON value: of an output, the word of a state, the event that a report was, the number of an attempt.
        path: of an output or error.
    """

    id: str
    node: int
    what: str
    value: Any = None
    path: Path = ()


def redo(run: Run, line: Line, facts: Iterable[Fact]) -> Move | None:
    """What the core decides for a line's node when it knows these facts and no others; None for nothing.

    Args:
        run: of the same graph; only the graph is looked at.
        line: a move.
        facts: those of its explanation, or some of them.
    """
    given = list(facts)
    stage = laid(run, given, line.node)
    event = (_EVENTS.get(line.word) or _asked)(stage, line, given)
    if event is None:
        return None
    moves = decide(stage, event, line.at_ms).moves
    return next((move for move in moves if move.node == line.node), None)


def laid(run: Run, facts: Iterable[Fact], node: int = -1) -> Run:
    """A run of the same graph of which nothing is known but these facts. O(nodes), some bytes each.

    Args:
        node: whose trigger rule counts the ends among them; -1 for nobody's.
    """
    it, n, given = copy.copy(run), run.n, list(facts)
    it.state, it.attempt, it.epoch = bytearray(n), array("I", bytes(4 * n)), array("H", [1]) * n
    it.failures, it.losses, it.excused = (array("H", bytes(2 * n)) for _ in range(3))
    it.tally, it.by_state, it.open, it.bad = array("I", bytes(16 * n)), [0] * len(NodeState), n, 0
    it.past, it.ended, it.cause, it.facts, it.closed = {}, {}, {}, {}, {}
    it.parked, it.handed, it.rungs, it.signals, it.leaving, it.acts = {}, {}, {}, {}, {}, []
    it.run_state, it.reason, it.stopped, it.floor = RunState.RUNNING, "", None, 0
    if run.policy is not None:
        it.leave_policy()
    if run.guards is not None:
        it.guards = replace(run.guards, stops=[])
    shut = {fact.node for fact in given if fact.what == "closed"}
    upstream = set(run.upstream(node)) if node >= 0 else ()
    for fact in given:
        _lay(it, node, fact)
        if fact.what == "state" and fact.node in upstream and (state := it.state[fact.node]) >= FIRST_ENDED:
            it.tally[4 * node + (CLOSED if fact.node in shut else COUNTED_AS[state])] += 1
    return it


def _lay(it: Run, node: int, fact: Fact) -> None:
    """One fact into the stage."""
    what, value = fact.what, fact.value
    if what in ("state", "stood"):
        it.state[fact.node] = STATES[value]
    elif what in ("output", "error"):
        it.facts.setdefault(fact.node, {})[what, fact.path] = value
        if not it.state[fact.node]:
            it.state[fact.node] = NodeState.SUCCEEDED if what == "output" else NodeState.FAILED
    elif what == "attempts":
        it.attempt[fact.node] = value
    elif what in _STOOD:
        it.state[node], it.attempt[node] = _STOOD[what], value
    elif what in ("failure", "loss", "excused"):
        counted = {"failure": it.failures, "loss": it.losses, "excused": it.excused}[what]
        counted[node] += 1
    elif what == "run":
        it.run_state = RunState(value)
    elif what == "stopped":
        it.stopped = RunState.SUCCEEDED, value
    elif what == "policy":
        it.take_policy(value)
    else:
        _lay_wait(it, node, what, value)


def _lay_wait(it: Run, node: int, what: str, value: Any) -> None:
    """The same for facts of nodes that wait, and of ladders."""
    if what == "parked":
        it.state[node], it.parked[node] = NodeState.WAITING, value
    elif what == "handed":
        it.state[node], it.attempt[node], it.handed[node] = NodeState.WAITING, value, (None, "")
    elif what == "rung":
        it.rungs[node] = value[0], value[1]
    elif what == "signal":
        event = event_of(value)
        if isinstance(event, Signalled):
            it.signals[event.id] = Signal(*event)


def _opened(stage: Run, line: Line, facts: list[Fact]) -> Event | None:
    """Rules and guards are asked; where the guard of an edge was, its upstream node must just have succeeded."""
    if not line.why.startswith(EDGE):
        return Opened(line.node, line.node + 1)
    up = line.cause
    if not any(it.what == "state" and it.node == up for it in facts):
        return None
    stage.state[up], stage.attempt[up] = NodeState.DISPATCHED, 1
    stage.tally[4 * line.node : 4 * line.node + 4] = array("I", bytes(16))
    return Reported(up, 1, 1, "succeeded", "inline", "", 0, 0, None, None, 0.0, stage.facts.pop(up, {}))


def _skipped(stage: Run, line: Line, facts: list[Fact]) -> Event | None:
    """By its rule or guard, or because somebody asked for it."""
    return _asked(stage, line, facts) if any(it.what == "asked" for it in facts) else _opened(stage, line, facts)


def _ended(stage: Run, line: Line, facts: list[Fact]) -> Event | None:
    """An attempt ends by what was told of it."""
    found = next((it for it in facts if it.what == "report"), None)
    if found is None:
        return None
    event = event_of(found.value)
    if isinstance(event, Reported | LeaseExpired):
        stage.epoch[line.node] = event.epoch
    return event


def _admitted(_stage: Run, line: Line, _facts: list[Fact]) -> Event:
    return Admitted([line.node], line.why == GOES_ON)


def _due(stage: Run, line: Line, facts: list[Fact]) -> Event | None:
    """A try or a delayed start is due."""
    if any(it.what == "asked" for it in facts):
        return _asked(stage, line, facts)
    return RetryDue(line.node, next((it.value for it in facts if it.what == "waits"), 0))


def _cancelled(stage: Run, line: Line, facts: list[Fact]) -> Event | None:
    """With its run: everything else has ended, so that one node is looked at. Or by the report of its attempt."""
    if any(it.what == "report" for it in facts):
        return _ended(stage, line, facts)
    if stage.guards is not None and line.cause in stage.guards.races:
        return _withdrawn(stage, line, facts)
    if (found := _of_asked(facts)) is None:
        return None
    mine = stage.state[line.node]
    stage.state = bytearray([NodeState.SUCCEEDED]) * stage.n
    stage.state[line.node] = mine
    return event_of(found)


def _withdrawn(stage: Run, line: Line, facts: list[Fact]) -> Event | None:
    """From a race, whose last winner reports."""
    members = stage.guards.races[line.cause] if stage.guards is not None else ()
    won = [it.node for it in facts if it.what == "state" and it.value == "succeeded" and it.node in members]
    if not won:
        return None
    last = won[-1]
    stage.state[last], stage.attempt[last] = NodeState.DISPATCHED, 1
    stage.tally[4 * line.cause] = len(won) - 1
    wait = stage.guards.waits.get(last) if stage.guards is not None else None
    if wait is not None and wait.kind == "outside":
        return Completed(last, 1, 1, 0, b"null", None, 0.0, stage.facts.pop(last, {}))
    return Reported(last, 1, 1, "succeeded", "inline", "", 0, 0, None, None, 0.0, stage.facts.pop(last, {}))


def _reopened(stage: Run, _line: Line, facts: list[Fact]) -> Event | None:
    stage.state = bytearray(it or NodeState.SUCCEEDED for it in stage.state)
    for fact in facts:
        if fact.what == "reopened":
            stage.state[fact.node] = NodeState.PENDING
    stage.run_state = RunState.FAILED
    found = _of_asked(facts)
    return None if found is None else RetryRequested(str(found.get("reason", "")))


def _asked(_stage: Run, _line: Line, facts: list[Fact]) -> Event | None:
    """What somebody asked for, as the log tells it: moves that this file has no row for."""
    found = _of_asked(facts)
    return None if found is None else event_of(found)


def _of_asked(facts: list[Fact]) -> Any:
    return next((it.value for it in facts if it.what == "asked"), None)


_EVENTS: dict[str, Callable[[Run, Line, list[Fact]], Event | None]] = {
    **dict.fromkeys(("ready", "upstream_fail", "decide", "refuse", "park"), _opened),
    **dict.fromkeys(("succeed", "fail", "retry", "lose", "ask", "hand_over"), _ended),
    "skip": _skipped,
    "dispatch": _admitted,
    "wake": _due,
    "cancel": _cancelled,
    "reopen": _reopened,
}
"""Move -> the event that leads to it. A move of a later version whose event the log tells needs no row."""


def same(line: Line, move: Move | None) -> bool:
    """Whether a move made again is the recorded one: of the same kind, and with the same words for what was read.

    A rule may have counted more ends than an explanation needs, so those words are left to `Explainer.check`.
    """
    if move is None or move.kind != KINDS[line.word]:
        return False
    if line.word in ("fail", "retry", "lose", "refuse", "ask"):
        return move.why == line.why
    if line.word == "decide" or "; when: " in line.why:
        there, here = (why.partition("; ")[2][:_COMPARED] for why in (line.why, move.why))
        return there == here
    return True


def spent(event: Event) -> str:
    """Which count of a node its failed attempt raises: failure, loss or excused."""
    if isinstance(event, Reported) and event.end != "lost":
        return "failure"
    if isinstance(event, LeaseExpired):
        return "excused" if event.claimed_at_ms is None else "failure" if event.hard_end else "loss"
    return "loss" if counts_as_loss(getattr(event, "error", None)) else "excused"


def true(stage: Run, condition: Expression) -> bool | None:
    """Whether a condition holds in a run that was laid out; None when it has no value."""
    sight = Sight.of(stage, Decision(), 0)
    try:
        return None if sight is None else sight.value(condition)[0]
    except EvaluationError:
        return None
