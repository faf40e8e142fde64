"""What people ask of a run, and its deadline: cancel, retry, pause, resume, and how a run that is cancelled winds down.

Pure. Each function says what is asked for; decide.py follows what ends to the nodes downstream and to the end of the
run. Nothing here is on the way of a report.
"""

from __future__ import annotations

from .branching import SHOWN_REASON
from .events import (
    STALE,
    CancelRequested,
    DeadlinePassed,
    Decision,
    GraceOver,
    Move,
    Opened,
    PauseRequested,
    ResumeRequested,
    RetryRequested,
    Timer,
)
from .run import ACT_REASON, Act, Run
from .states import BAD_ENDS, FIRST_ENDED, IN_FLIGHT, MoveKind, NodeState, RunState
from .waiting import timers_of

DEADLINE_PASSED = "the run's deadline passed"
GRACE_MS = 15_000
"""How long attempts that run when their run is cancelled may still end by themselves."""
_PENDING = int(NodeState.PENDING)
_IN_FLIGHT = frozenset(map(int, IN_FLIGHT))


def pause_requested(run: Run, event: PauseRequested, now: int) -> Decision:
    """Nothing more is sent. Attempts that are out end and are followed; timers and the deadline go on."""
    if run.run_state is not RunState.RUNNING:
        return STALE
    act = Act(now, "pause", event.by, event.reason[:ACT_REASON])
    return Decision(run=RunState.PAUSED, why=words("paused", event.reason, event.by), act=act)


def resume_requested(run: Run, event: ResumeRequested, now: int) -> Decision:
    """A paused run goes on; what is ready is sent again."""
    if run.run_state is not RunState.PAUSED:
        return STALE
    act = Act(now, "resume", event.by, event.reason[:ACT_REASON])
    return Decision(run=RunState.RUNNING, why=words("resumed", event.reason, event.by), resumes=True, act=act)


def words(what: str, reason: str, by: str) -> str:
    """What somebody did and why, for the run and its log."""
    return f"{what}{f' by {by}' if by else ''}{f': {reason}' if reason else ''}"


def cancel_requested(run: Run, event: CancelRequested, now: int) -> Decision:
    """The run is to stop."""
    decision = _stop(run, words("cancelled", event.reason, event.by), event.running, now, event.end)
    if not decision.stale:
        decision.act = Act(now, "cancel", event.by, event.reason[:ACT_REASON])
    return decision


def deadline_passed(run: Run, _event: DeadlinePassed, now: int) -> Decision:
    """The run has taken too long, and stops as failed; nothing of it gets a grace."""
    if run.deadline_at_ms is None:
        return STALE  # it was taken away
    decision = _stop(run, DEADLINE_PASSED, frozenset(), now)
    if not decision.stale:
        decision.run = RunState.FAILED
    return decision


def _stop(run: Run, reason: str, running: frozenset[int], now: int, end: int | None = None) -> Decision:
    """Cancel what has not begun, up to `end` or all; what runs gets a grace. A second request changes nothing."""
    if run.run_state is RunState.CANCELLING:
        return STALE
    decision = Decision(why=reason)
    end = run.n if end is None else end
    for node, state in enumerate(run.state):
        if state < FIRST_ENDED and (node not in running if state in _IN_FLIGHT else node < end):
            _cancel(run, node, reason, decision)
    decision.cancelled.append("deadline")
    if run.open == len(decision.moves):
        decision.run = RunState.CANCELLED
    else:
        decision.run = RunState.CANCELLING
        decision.timers.append(Timer("grace", now + GRACE_MS))
    return decision


def _cancel(run: Run, node: int, reason: str, decision: Decision) -> None:
    decision.moves.append(Move(node, MoveKind.CANCEL, -1, reason[:SHOWN_REASON]))
    decision.cancelled += timers_of(run, node)


def wind_down(run: Run, event: Opened, now: int) -> Decision:
    """A stop goes on, part by part: what has not begun is cancelled. What runs gets a grace again when it begins anew,
    for that is after a crash.
    """
    decision = Decision()
    for node, state in enumerate(run.state[event.first : event.end], event.first):
        if state < FIRST_ENDED and state not in _IN_FLIGHT:
            _cancel(run, node, run.reason, decision)
    if run.open > len(decision.moves) and not event.first:
        decision.timers.append(Timer("grace", now + GRACE_MS))
    return decision


def grace_over(run: Run, _event: GraceOver, _now: int) -> Decision:
    """What still runs of a run that is being cancelled is cancelled now."""
    if run.run_state is not RunState.CANCELLING:
        return STALE
    moves = [Move(node, MoveKind.CANCEL, -1, run.reason) for node, state in enumerate(run.state) if state < FIRST_ENDED]
    return Decision(moves)


def retry_requested(run: Run, event: RetryRequested, now: int) -> Decision:
    """Nodes that ended badly, and all that came after them, are pending again. O(nodes + edges).

    A node of an ended run that is pending already was opened by a retry that a crash broke off: this is the same
    request again, and it goes on from there.
    """
    again = bytearray(run.n)
    moves = []
    for node, state in enumerate(run.state):  # upstream nodes first
        if state == _PENDING:
            again[node] = 1
        elif state in BAD_ENDS or (state >= FIRST_ENDED and any(again[up] for up in run.upstream(node))):
            again[node] = 1
            moves.append(Move(node, MoveKind.REOPEN, -1, "" if state in BAD_ENDS else "follows a node that runs again"))
    if not any(again):
        return STALE
    act = Act(now, "retry", event.by, event.reason[:ACT_REASON], 0, len(moves))
    return Decision(moves, run=RunState.RUNNING, why=words("retry", event.reason, event.by), act=act)
