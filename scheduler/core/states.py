"""States of nodes and runs, and the one table of moves between them.

Pure. Every state change is a move of this table; one that is not in it raises IllegalMove and
changes nothing. Names are Airflow's and Temporal's where they have one.

    pending -> ready -> dispatched -> running -> succeeded | failed
                 ^          |            |
                 |          +-- lose ----+          infrastructure took the attempt
                 +-- wake -- waiting <-- retry      a failed attempt waits for its next try

    pending -> succeeded        decide: a choice is no work, the scheduler makes it itself
    pending -> failed           refuse: a guard or a choice has no value
    pending, ready, waiting -> skipped      skip: a rule, a guard, a person, or the end of a run that has what it wants
    anything open, or ended badly -> succeeded      complete: a person gives the output

    pending -> waiting          park: for an instant, a signal or a person; no worker is held
    running -> waiting          hand_over: its worker has begun a job that somebody outside will end
    waiting -> succeeded        resolve: what it waited for has come; succeed: the job outside has ended
    ready, waiting -> failed    expire: a time limit is over, or a person gives it up
    running -> waiting          ask: a failed attempt's ladder ends at a person, who says whether it is tried again

`running` is entered by the worker's claim, which the store records at once; decide learns of it from
the next event of that attempt. A report therefore implies its claim: moves that end an attempt
start from dispatched as well as from running.

An ended node is opened again only when somebody asks for it: a retry of its run, a re-run from it or from a node before
it, or an output by hand before it. That is a new epoch of the node; what has begun after such a node begins anew too.
"""

from __future__ import annotations

import enum

from ..errors import IllegalMove


class NodeState(enum.IntEnum):
    """Where a node stands."""

    PENDING = 0
    READY = 1
    DISPATCHED = 2
    RUNNING = 3
    WAITING = 4
    SUCCEEDED = 5
    FAILED = 6
    SKIPPED = 7
    UPSTREAM_FAILED = 8
    CANCELLED = 9

    @property
    def word(self) -> str:
        """The state as people read it."""
        return self.name.lower()


class RunState(enum.StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN = frozenset({NodeState.PENDING, NodeState.READY, NodeState.DISPATCHED, NodeState.RUNNING, NodeState.WAITING})
IN_FLIGHT = frozenset({NodeState.DISPATCHED, NodeState.RUNNING})
GOING_ON = frozenset({RunState.RUNNING, RunState.PAUSED})
"""Runs of which ends are followed; nodes of a paused one become ready, and are not sent."""
BAD_ENDS = frozenset({NodeState.FAILED, NodeState.UPSTREAM_FAILED, NodeState.CANCELLED})
ENDED_RUNS = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})
FIRST_ENDED = NodeState.SUCCEEDED
"""States from here on are final: `state >= FIRST_ENDED`."""

LETTERS = "PRDNWSFKUC"
"""One letter a node state, by its number, as records in the store write it."""


class MoveKind(enum.IntEnum):
    """A named state change of a node."""

    READY = 0
    DISPATCH = 1
    CLAIM = 2
    SUCCEED = 3
    FAIL = 4
    RETRY = 5
    WAKE = 6
    LOSE = 7
    SKIP = 8
    UPSTREAM_FAIL = 9
    CANCEL = 10
    REOPEN = 11
    DECIDE = 12
    REFUSE = 13
    PARK = 14
    HAND_OVER = 15
    RESOLVE = 16
    EXPIRE = 17
    COMPLETE = 18
    ASK = 19

    @property
    def word(self) -> str:
        """The move as people and the run's log read it."""
        return self.name.lower()


_S = NodeState
_TRIED = IN_FLIGHT | {_S.WAITING}
"""An attempt that was handed over waits, and ends like one in flight."""
MOVES: dict[MoveKind, tuple[frozenset[NodeState], NodeState]] = {
    MoveKind.READY: (frozenset({_S.PENDING}), _S.READY),
    MoveKind.DISPATCH: (frozenset({_S.READY}), _S.DISPATCHED),
    MoveKind.CLAIM: (frozenset({_S.DISPATCHED}), _S.RUNNING),
    MoveKind.SUCCEED: (_TRIED, _S.SUCCEEDED),
    MoveKind.FAIL: (_TRIED, _S.FAILED),
    MoveKind.RETRY: (_TRIED, _S.WAITING),
    MoveKind.WAKE: (frozenset({_S.WAITING}), _S.READY),
    MoveKind.LOSE: (IN_FLIGHT, _S.READY),
    MoveKind.SKIP: (frozenset({_S.PENDING, _S.READY, _S.WAITING}), _S.SKIPPED),
    MoveKind.UPSTREAM_FAIL: (frozenset({_S.PENDING}), _S.UPSTREAM_FAILED),
    MoveKind.CANCEL: (OPEN, _S.CANCELLED),
    MoveKind.REOPEN: (frozenset(_S) - {_S.PENDING}, _S.PENDING),
    MoveKind.DECIDE: (frozenset({_S.PENDING}), _S.SUCCEEDED),
    MoveKind.REFUSE: (frozenset({_S.PENDING}), _S.FAILED),
    MoveKind.PARK: (frozenset({_S.PENDING}), _S.WAITING),
    MoveKind.HAND_OVER: (IN_FLIGHT, _S.WAITING),
    MoveKind.RESOLVE: (frozenset({_S.WAITING}), _S.SUCCEEDED),
    MoveKind.EXPIRE: (frozenset({_S.READY, _S.WAITING}), _S.FAILED),
    MoveKind.ASK: (_TRIED, _S.WAITING),
    MoveKind.COMPLETE: (OPEN | BAD_ENDS, _S.SUCCEEDED),
}

RUN_MOVES: dict[RunState, frozenset[RunState]] = {
    RunState.RUNNING: frozenset(
        {RunState.PAUSED, RunState.CANCELLING, RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED}
    ),
    RunState.PAUSED: frozenset(
        {RunState.RUNNING, RunState.CANCELLING, RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED}
    ),
    RunState.CANCELLING: frozenset({RunState.CANCELLED, RunState.FAILED}),
    RunState.SUCCEEDED: frozenset({RunState.RUNNING}),
    RunState.FAILED: frozenset({RunState.RUNNING}),
    RunState.CANCELLED: frozenset({RunState.RUNNING}),
}

_BY_NUMBER = {int(kind): MOVES[kind] for kind in MoveKind}
_NO_MOVE: tuple[frozenset[NodeState], NodeState] = (frozenset(), _S.PENDING)
_NUMBERED = [_BY_NUMBER.get(number, _NO_MOVE) for number in range(max(MoveKind) + 1)]
TARGET: tuple[int, ...] = tuple(int(target) for _, target in _NUMBERED)
"""Move -> state it leads to, by number: the table again, for the hot path."""
LEGAL: tuple[frozenset[int], ...] = tuple(frozenset(map(int, froms)) for froms, _ in _NUMBERED)
"""Move -> states it may start from, by number; none for numbers that no move has."""


def check_move(node: int, kind: int, state: int) -> None:
    """Refuse a move that the table does not have.

    Raises:
        IllegalMove: names the node, its state, the move, and the moves that exist from there.
    """
    if state not in LEGAL[kind]:
        allowed = [it.word for it in MoveKind if state in LEGAL[it]]
        raise IllegalMove(f"node {node}", NodeState(state).word, MoveKind(kind).word, allowed)


def check_run_move(before: RunState, after: RunState) -> None:
    """Refuse a change of a run's state that the table does not have.

    Raises:
        IllegalMove: names both states and those it may go to.
    """
    if after not in RUN_MOVES[before]:
        raise IllegalMove("the run", str(before), f"to {after}", sorted(RUN_MOVES[before]))
