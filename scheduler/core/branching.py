"""What expressions decide: may a node start, which way does a choice go, is an edge open, does the run stop?

Pure. For decide.py, which asks only when the run has guards. A guard is asked when the trigger rule lets the node
start; an edge's when its upstream node has succeeded; a stop condition whenever a node that it reads has moved.
What has no value is a failure of the policy and of nobody's work: it ends the node, or the run, and says what it met.
"""

from __future__ import annotations

import json
from collections.abc import Container

from .events import Decision, Move
from .expressions import EvaluationError
from .failures import failure
from .guards import GUARD_FAILED, Sight
from .racing import decide_race
from .run import Run
from .states import FIRST_ENDED, GOING_ON, IN_FLIGHT, TARGET, MoveKind, NodeState, RunState
from .waiting import begin_wait, give, limit_start, timers_of

GUARD_WHY = 1_000
"""Characters that the log keeps of what a guard, a choice or a stop condition says."""
SHOWN_REASON = 200
"""Characters of a reason that each node of a run that ends repeats in the log; the run's own line has it whole."""


def begin(run: Run, node: int, cause: int, seen: str, decision: Decision, sight: Sight) -> Move:
    """A node whose rule lets it start: its guard has a say, and a choice is made at once.

    Args:
        cause: the upstream node that brought it about, or -1.
        seen: what the rule saw, for the log.
    """
    guards, run = sight.guards, sight.run
    what = "when"
    try:
        if (guard := guards.when.get(node)) is not None:
            true, why = sight.value(guard)
            seen = f"{seen}; when: {why}"
            if not true:
                return Move(node, MoveKind.SKIP, -1, seen)  # for no upstream node's sake
        if node in guards.races:
            return decide_race(run, node, cause, seen, decision, sight)
        if (choice := guards.choices.get(node)) is None:
            wait = guards.waits.get(node)
            if wait is not None and (wait.kind != "outside" or wait.puts_off):
                return begin_wait(run, wait, node, cause, seen, decision, sight.now)
            if node in guards.timed:
                limit_start(run, node, decision, sight.now, first=True)
            return Move(node, MoveKind.READY, cause, seen)
        what = "choice"
        branch, why = sight.chosen(choice)
    except EvaluationError as failed:
        return _refused(run, node, cause, what, failed)
    output = json.dumps({"branch": branch}, ensure_ascii=False, separators=(",", ":")).encode()
    return give(guards, node, MoveKind.DECIDE, output, decision, f"{seen}; {why}", cause)


def _refused(run: Run, node: int, cause: int, what: str, failed: EvaluationError) -> Move:
    """A node whose guard, edge or choice has no value fails by that."""
    error = failure(run, "permanent", GUARD_FAILED, f"{what}: {failed}", "guard") | {"origin": "policy"}
    return Move(node, MoveKind.REFUSE, cause, f"policy: {error['message']}"[:GUARD_WHY], error)


def see(
    run: Run, move: Move, target: int, decision: Decision, sight: Sight, touched: dict[int, list[int]]
) -> dict[int, str]:
    """Let expressions see a move of this decision.

    Where the guard of an edge has no value the node downstream fails, unless it has begun already.

    Args:
        target: the state that the move leads to.
        touched: counts of nodes downstream; those of nodes that are decided by now begin with -1.

    Returns:
        Downstream nodes to which the edge from this node is closed, with the reasons.
    """
    sight.moved(move.node, target)
    if target >= FIRST_ENDED and move.node in sight.guards.timed:
        decision.cancelled += timers_of(run, move.node)
    if target == NodeState.FAILED:
        sight.error(move.node, move.error)
    if target != NodeState.SUCCEEDED or move.node not in sight.guards.gates:
        return {}
    chosen = move.node in sight.guards.choices
    branch = json.loads(decision.outputs[move.node])["branch"] if chosen else None
    shut, broken = sight.closed(move.node, branch)
    for child, failed in broken.items():
        shut[child] = ""
        if sight.state(child) == NodeState.PENDING:
            decision.moves.append(_refused(run, child, move.node, f"edge from {run.keys[move.node]!r}", failed))
            sight.moved(child, int(NodeState.FAILED))
            touched[child] = [-1, 0, 0, 0]
    if shut:
        decision.closed[move.node] = tuple(sorted(shut))
    return shut


def stop_if_true(run: Run, decision: Decision, sight: Sight, moved: Container[int] | None = None) -> bool:
    """The first stop condition that is true ends the run: what is not in flight is skipped, the rest ends by itself.

    A condition that has no value while nodes that it reads are open is not true yet, and one that asks for what a node
    never gave (it was skipped, say) is not true. Values that it cannot judge are an error of the graph.

    Args:
        moved: only conditions that read one of these nodes can have become true; None asks all.
    """
    guards = sight.guards
    if run.stopped or run.run_state not in GOING_ON:
        return False
    for stop in guards.stops:
        reads = {guards.index[one.node] for one in stop.when.reads}
        if moved is not None and not any(node in moved for node in reads):
            continue
        try:
            true, why = sight.value(stop.when)
        except EvaluationError as failed:
            if failed.kind == "missing" or any(sight.state(node) < FIRST_ENDED for node in reads):
                continue
            outcome, why = RunState.FAILED, f"policy: a stop condition has no value: {failed}"
        else:
            if not true:
                continue
            outcome, why = stop.outcome, f"{stop.reason}: {why}" if stop.reason else why
        _skip_the_rest(run, decision, outcome, f"stopped: {why}"[:GUARD_WHY])
        return True
    return False


def _skip_the_rest(run: Run, decision: Decision, outcome: RunState, why: str) -> None:
    """A run stops: what has not been sent is skipped. O(nodes)."""
    decision.stopped = outcome, why
    decision.moves = [move for move in decision.moves if TARGET[move.kind] != NodeState.READY]
    decided = {move.node for move in decision.moves}
    for node, state in enumerate(run.state):
        if state < FIRST_ENDED and state not in IN_FLIGHT and node not in decided:
            decision.moves.append(Move(node, MoveKind.SKIP, -1, why[:SHOWN_REASON]))
            if state != NodeState.PENDING:
                decision.cancelled += timers_of(run, node)
