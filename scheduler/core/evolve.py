"""evolve(run, decision): apply what was decided, whole or not at all.

Pure, but for the run that it changes. The only place where a run in memory changes; refuses moves that
the table does not have. Costs O(out-edges) of each node that ends or is opened again.
"""

from __future__ import annotations

from .events import Decision, Ending, Move
from .retry import counts_as_loss, word_of
from .run import AGAIN, KEPT_ACTS, PARKED, Act, Run, gather, references, spread
from .states import (
    ENDED_RUNS,
    FIRST_ENDED,
    IN_FLIGHT,
    LEGAL,
    TARGET,
    MoveKind,
    NodeState,
    RunState,
    check_move,
    check_run_move,
)

_READY, _DISPATCH, _SUCCEED = int(MoveKind.READY), int(MoveKind.DISPATCH), int(MoveKind.SUCCEED)
_IN_FLIGHT = frozenset(map(int, IN_FLIGHT))
_APART = ord("n")
"""In place of the kind of an output: the node was ended by a person and not with its run."""
_K = MoveKind
_COMPLETE = int(_K.COMPLETE)
_UNSENT = frozenset(
    map(
        int,
        (_K.SKIP, _K.UPSTREAM_FAIL, _K.REFUSE, _K.DECIDE, _K.REOPEN, _K.WAKE, _K.PARK, _K.RESOLVE, _K.EXPIRE),
    )
)
"""Moves of nodes of which no attempt is out."""
_GIVEN = (_K.DECIDE, _K.RESOLVE)
"""Moves that bring an output which no worker made."""


def evolve(run: Run, decision: Decision, now: int) -> None:
    """Apply a decision. All its moves are checked against the table first, so a refused one changes nothing.

    Raises:
        IllegalMove: the run is not what the decision was made for.
    """
    states = run.state
    _check(run, decision)
    if run.guards is not None or decision.act is not None or decision.policy is not None:
        _begin(run, decision)
    offset = max(now - run.created_at_ms, 0)
    by_state = run.by_state
    for move in decision.moves:
        node, kind = move[0], move[1]
        target = TARGET[kind]
        if kind == _READY:
            run.ready_at[node] = offset
            if run.floor:
                run.number_attempt(node)
            else:
                run.attempt[node] += 1
        elif kind == _DISPATCH:
            run.dispatched_at[node] = offset
        elif kind == _SUCCEED:
            claimed_at_ms, at_ms, worker, output = decision.ending  # type: ignore[misc]  # a report always brings it
            run.ended[node] = run.close_try(node, claimed_at_ms, at_ms, "succeeded", worker)
            run.output_kind[node] = ord(output[0])
        else:
            _apply_rare(run, move, decision, offset)
        by_state[states[node]] -= 1
        by_state[target] += 1
        states[node] = target
        if target >= FIRST_ENDED:
            run.open -= 1
            spread(run, node, target)
    if run.leaving:
        _left(run)
    if decision.run is not None:
        _become(run, decision.run, decision.why)


def _check(run: Run, decision: Decision) -> None:
    states = run.state
    for move in decision.moves:
        if states[move[0]] not in LEGAL[move[1]]:
            check_move(move[0], move[1], states[move[0]])
    if decision.run is not None:
        check_run_move(run.run_state, decision.run)


def _left(run: Run) -> None:
    """Nodes that are being cancelled, and whose attempt has ended."""
    for node in [node for node in run.leaving if run.state[node] not in _IN_FLIGHT]:
        del run.leaving[node]


def _become(run: Run, state: RunState, why: str) -> None:
    """The run itself changes its state."""
    opened = state is RunState.RUNNING and run.run_state in ENDED_RUNS
    run.run_state, run.reason = state, why
    if opened:
        run.deadline_at_ms, run.stopped = None, None  # both were for the first go


def _begin(run: Run, decision: Decision) -> None:
    """Before its moves: what a decision brings for the run's expressions, and what somebody asked for besides moves."""
    if decision.act is not None:
        _enact(run, decision, decision.act)
    if run.guards is not None:
        _learn(run, decision)
    if decision.policy is not None:
        run.take_policy(decision.policy)


def _enact(run: Run, decision: Decision, act: Act) -> None:
    run.acts = [*run.acts, act][-KEPT_ACTS:]
    run.leaving.update(decision.leaving)
    if decision.deadline:
        [run.deadline_at_ms] = decision.deadline
    if decision.priority is not None:
        run.priority = decision.priority
    for node in decision.apart:
        if run.state[node] == NodeState.CANCELLED:
            run.output_kind[node] = _APART
    for move in decision.moves:  # a node that is completed in a new epoch leaves the old one first
        if move.kind == _COMPLETE and run.state[move.node] >= FIRST_ENDED:
            _reopen(run, move.node, 0)


def _learn(run: Run, decision: Decision) -> None:
    """What a decision brings for the run's expressions and waits, before its moves: edges are counted by what is
    closed.
    """
    run.facts.update(decision.facts)
    run.closed.update(decision.closed)
    if run.handed and decision.ending is not None:
        run.handed.pop(decision.moves[0].node, None)  # a job that was begun ends, one way or another
    run.outputs.update({node: output for node, output in decision.outputs.items() if run.readers[node]})
    run.stopped = decision.stopped or run.stopped
    for signal in decision.signals:
        run.signals[signal.id] = signal
    for id_, taken in decision.taken:
        run.signals[id_] = run.signals[id_]._replace(taken=taken)


def _apply_rare(run: Run, move: Move, decision: Decision, offset: int) -> None:
    """What a move means besides its state, for moves off the hot path."""
    node, kind = move.node, move.kind
    if kind in _UNSENT:
        _apply_unsent(run, move, decision, offset)
        return
    if kind == _COMPLETE:
        _complete(run, move, decision, offset)
        return
    if kind == MoveKind.CANCEL and (node in decision.apart or node in run.leaving):
        run.output_kind[node] = _APART
    if kind == MoveKind.CANCEL and run.state[node] == NodeState.WAITING:
        _wait_ends(run, node, offset, "cancelled")
        return
    run.handed.pop(node, None)
    if decision.ending is None:
        if kind == MoveKind.CANCEL and run.state[node] in _IN_FLIGHT:
            run.ended[node] = run.close_try(node, None, run.created_at_ms + offset, "cancelled", "")
        elif kind == MoveKind.CANCEL and run.state[node] == NodeState.READY:
            _never_sent(run, node)
        return
    if kind == MoveKind.HAND_OVER:
        run.handed[node] = decision.ending[0], decision.ending[2]
        return
    _close(run, move, decision, decision.ending, offset)


def _close(run: Run, move: Move, decision: Decision, ending: Ending, offset: int) -> None:
    """An attempt that a worker told of has ended, and not well."""
    node, kind = move.node, move.kind
    claimed_at_ms, at_ms, worker, _output = ending
    lost = kind == MoveKind.LOSE or (kind != MoveKind.CANCEL and (move.error or {}).get("kind") == "lost")
    end = "cancelled" if kind == MoveKind.CANCEL else "lost" if lost else "failed"
    if lost:
        end = f"lost {word_of((move.error or {}).get('type'))}"
    entry = run.close_try(node, claimed_at_ms, at_ms, end, worker)
    if kind in (MoveKind.FAIL, MoveKind.CANCEL):
        run.ended[node] = entry
        if lost:
            _count_loss(run, move)
        elif kind == MoveKind.FAIL:
            run.failures[node] += 1
        return
    run.keep_try(node, entry)
    if kind == MoveKind.ASK:
        run.parked[node] = offset
    if kind in (MoveKind.RETRY, MoveKind.ASK):
        run.failures[node] += 1
        if decision.rungs:
            run.rungs.update(decision.rungs)
            run.losses[node] = run.excused[node] = 0  # what another way loses is another matter
    else:
        _count_loss(run, move)
        run.ready_at[node] = offset
        run.number_attempt(node)


def _apply_unsent(run: Run, move: Move, decision: Decision, offset: int) -> None:
    """The same for moves of nodes of which no attempt is out."""
    node, kind = move.node, move.kind
    if kind == MoveKind.REOPEN:
        _reopen(run, node, offset)
    elif kind == MoveKind.WAKE:
        run.parked.pop(node, None)
        run.rungs.update(decision.rungs)
        run.ready_at[node] = offset
        run.number_attempt(node)
    elif kind == MoveKind.PARK:
        run.parked[node] = offset
    elif kind in _GIVEN:
        run.output_kind[node] = ord("i")
        _wait_ends(run, node, offset, "succeeded")
    elif kind != MoveKind.REFUSE:
        if move.cause >= 0:
            run.cause[node] = move.cause
        elif node in decision.apart:
            run.output_kind[node] = _APART
        if run.state[node] == NodeState.READY:
            _never_sent(run, node)
        _wait_ends(run, node, offset, "failed" if kind == MoveKind.EXPIRE else "skipped")


def _wait_ends(run: Run, node: int, offset: int, end: str) -> None:
    """A node that waited has ended: since when and how long it waited, onto its timeline.

    Args:
        end: how an attempt ends that was handed over.
    """
    since = run.parked.pop(node, None)
    if since is not None:
        run.ended[node] = f"{since},,,{max(0, offset - since)},{PARKED},"
    elif node in run.handed:
        claimed_at_ms, worker = run.handed.pop(node)
        run.ended[node] = run.close_try(node, claimed_at_ms, run.created_at_ms + offset, end, worker)


def _never_sent(run: Run, node: int) -> None:
    """An attempt was numbered when its node became ready, and is not needed."""
    run.attempt[node] -= run.attempt[node] > 0


def _count_loss(run: Run, move: Move) -> None:
    if counts_as_loss(move.error):
        run.losses[move.node] += 1
    else:
        run.excused[move.node] += 1


def _complete(run: Run, move: Move, decision: Decision, offset: int) -> None:
    """A person gives the output, which is an attempt of its own unless one is out or about to go out."""
    node, act = move.node, decision.act
    assert act is not None  # noqa: S101  nothing else completes a node
    state = run.state[node]
    claimed_at_ms, _ = run.handed.pop(node, (None, ""))
    run.parked.pop(node, None)
    if state not in _IN_FLIGHT and claimed_at_ms is None:
        if state != NodeState.READY:
            run.number_attempt(node)
            run.ready_at[node] = offset
        run.dispatched_at[node] = offset
    mark = f"{act.number}{AGAIN}" if state >= FIRST_ENDED else f"{act.number}"
    run.ended[node] = run.close_try(node, claimed_at_ms, run.created_at_ms + offset, f"completed {mark}", act.by)
    run.output_kind[node] = ord("i")
    if run.readers[node]:
        run.outputs[node] = decision.outputs[node]


def _reopen(run: Run, node: int, offset: int) -> None:
    """A new epoch of a node: its tries so far stay on the timeline, its counts begin anew."""
    state = run.state[node]
    if state >= FIRST_ENDED:
        gather(run, node, state)
        run.open += 1
        entry = run.ended.pop(node, None)
        if entry is not None:
            run.keep_try(node, entry)
    elif state in _IN_FLIGHT:
        run.keep_try(node, run.close_try(node, None, run.created_at_ms + offset, "cancelled", ""))
    elif state == NodeState.READY:
        _never_sent(run, node)
    elif state == NodeState.WAITING:
        _wait_ends(run, node, offset, "cancelled")
        if (entry := run.ended.pop(node, None)) is not None:
            run.keep_try(node, entry)
    if run.attempt[node]:
        for source in references(run.inputs[node]):  # it will ask for them again
            run.readers[source] += 1
    run.epoch[node] += 1
    run.failures[node] = run.losses[node] = run.excused[node] = run.output_kind[node] = 0
    run.cause.pop(node, None)
    run.rungs.pop(node, None)
    run.outputs.pop(node, None)
    run.facts.pop(node, None)
