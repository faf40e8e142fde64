"""The table of moves: every legal one, every other one refused without a trace."""

from __future__ import annotations

from itertools import product

import pytest

from scheduler.core.events import Decision, Move
from scheduler.core.evolve import evolve
from scheduler.core.run import Act, spread
from scheduler.core.states import (
    BAD_ENDS,
    ENDED_RUNS,
    FIRST_ENDED,
    IN_FLIGHT,
    LEGAL,
    LETTERS,
    MOVES,
    OPEN,
    RUN_MOVES,
    TARGET,
    MoveKind,
    NodeState,
    RunState,
    check_move,
    check_run_move,
)
from scheduler.errors import IllegalMove
from tests.unit.core.compiled import T0, loaded, node, snapshot

TABLE = """
    pending      ready          ready
    pending      skip           skipped
    pending      upstream_fail  upstream_failed
    pending      cancel         cancelled
    pending      decide         succeeded
    pending      refuse         failed
    pending      park           waiting
    ready        expire         failed
    dispatched   hand_over      waiting
    running      hand_over      waiting
    ready        dispatch       dispatched
    ready        cancel         cancelled
    ready        skip           skipped
    dispatched   claim          running
    dispatched   succeed        succeeded
    dispatched   fail           failed
    dispatched   retry          waiting
    dispatched   lose           ready
    dispatched   cancel         cancelled
    running      succeed        succeeded
    running      fail           failed
    running      retry          waiting
    running      lose           ready
    running      cancel         cancelled
    waiting      wake           ready
    waiting      succeed        succeeded
    waiting      fail           failed
    waiting      retry          waiting
    waiting      resolve        succeeded
    waiting      expire         failed
    dispatched   ask            waiting
    running      ask            waiting
    waiting      ask            waiting
    waiting      cancel         cancelled
    waiting      skip           skipped
    succeeded    reopen         pending
    failed       reopen         pending
    skipped      reopen         pending
    upstream_failed reopen      pending
    cancelled    reopen         pending
    ready        reopen         pending
    dispatched   reopen         pending
    running      reopen         pending
    waiting      reopen         pending
    pending      complete       succeeded
    ready        complete       succeeded
    dispatched   complete       succeeded
    running      complete       succeeded
    waiting      complete       succeeded
    failed       complete       succeeded
    upstream_failed complete    succeeded
    cancelled    complete       succeeded
"""
STATES = {state.word: state for state in NodeState}
KINDS = {kind.word: kind for kind in MoveKind}
LEGAL_MOVES = {
    (STATES[before], KINDS[move]): STATES[after]
    for before, move, after in (line.split() for line in TABLE.strip().splitlines())
}
RUN_TABLE = {
    (RunState.RUNNING, RunState.CANCELLING),
    (RunState.RUNNING, RunState.SUCCEEDED),
    (RunState.RUNNING, RunState.FAILED),
    (RunState.RUNNING, RunState.CANCELLED),
    (RunState.RUNNING, RunState.PAUSED),
    (RunState.PAUSED, RunState.RUNNING),
    (RunState.PAUSED, RunState.CANCELLING),
    (RunState.PAUSED, RunState.SUCCEEDED),
    (RunState.PAUSED, RunState.FAILED),
    (RunState.PAUSED, RunState.CANCELLED),
    (RunState.CANCELLING, RunState.CANCELLED),
    (RunState.CANCELLING, RunState.FAILED),
    (RunState.SUCCEEDED, RunState.RUNNING),
    (RunState.FAILED, RunState.RUNNING),
    (RunState.CANCELLED, RunState.RUNNING),
}
ENDING = (T0, T0, "w", "inline")
WITH_ENDING = (MoveKind.SUCCEED, MoveKind.FAIL, MoveKind.RETRY, MoveKind.HAND_OVER, MoveKind.ASK)


@pytest.mark.parametrize(("state", "kind"), list(product(NodeState, MoveKind)), ids=lambda it: it.word)
def test_a_node_moves_as_the_table_says_and_in_no_other_way(state: NodeState, kind: MoveKind) -> None:
    """Of 200 pairs of state and move those of the table are done; the others raise and change nothing."""
    run = loaded([node(), node(0)])
    run.state[0] = state
    if state >= FIRST_ENDED:
        spread(run, 0, state)
    before = snapshot(run)
    decision = Decision([Move(0, kind)], ENDING if kind in WITH_ENDING else None)
    if kind is MoveKind.LOSE:
        decision.ending = ENDING
    if kind is MoveKind.COMPLETE:
        decision.act, decision.outputs = Act(T0, "complete", "ann", "", 1, 1, ""), {0: b"1"}

    if (state, kind) in LEGAL_MOVES:
        evolve(run, decision, T0)
        assert run.state[0] == LEGAL_MOVES[state, kind]
        assert run.state[1] == NodeState.PENDING
    else:
        with pytest.raises(IllegalMove) as refused:
            evolve(run, decision, T0)
        assert snapshot(run) == before
        assert refused.value.state == state.word
        assert refused.value.move == kind.word
        assert refused.value.allowed == tuple(it.word for it in MoveKind if (state, it) in LEGAL_MOVES)


def test_the_numbers_for_the_hot_path_say_what_the_table_says() -> None:
    """TARGET and LEGAL are the table again, and check_move judges by it."""
    assert {(state, kind): target for kind, (starts, target) in MOVES.items() for state in starts} == LEGAL_MOVES
    for state, kind in product(NodeState, MoveKind):
        assert (state in LEGAL[kind]) == ((state, kind) in LEGAL_MOVES)
        if (state, kind) in LEGAL_MOVES:
            assert TARGET[kind] == LEGAL_MOVES[state, kind]
            check_move(0, kind, state)
        else:
            with pytest.raises(IllegalMove, match=f"node 7 is {state.word} and cannot move by {kind.word}"):
                check_move(7, kind, state)


def test_the_only_way_out_of_a_final_state_is_to_open_the_node_again() -> None:
    """`state >= FIRST_ENDED` tells the final states; a completion by hand opens and ends a node in one move."""
    final = {state for state in NodeState if state >= FIRST_ENDED}
    assert final == set(NodeState) - OPEN
    assert final == {STATES[word] for word in ("succeeded", "failed", "skipped", "upstream_failed", "cancelled")}
    assert {kind for state, kind in LEGAL_MOVES if state in final} == {MoveKind.REOPEN, MoveKind.COMPLETE}
    assert {state for state, kind in LEGAL_MOVES if kind is MoveKind.COMPLETE and state in final} == BAD_ENDS
    assert {state for state in NodeState if state in IN_FLIGHT} == {NodeState.DISPATCHED, NodeState.RUNNING}


def test_every_state_has_its_letter() -> None:
    """Records in the store name states by letters that never change."""
    assert dict(zip((state.word for state in NodeState), LETTERS, strict=True)) == {
        "pending": "P",
        "ready": "R",
        "dispatched": "D",
        "running": "N",
        "waiting": "W",
        "succeeded": "S",
        "failed": "F",
        "skipped": "K",
        "upstream_failed": "U",
        "cancelled": "C",
    }


@pytest.mark.parametrize(("before", "after"), list(product(RunState, RunState)))
def test_a_run_moves_as_its_table_says(before: RunState, after: RunState) -> None:
    """A run's state changes by the nine moves there are; any other raises, and neither run nor nodes change."""
    run = loaded([node()])
    run.run_state = before
    decision = Decision([Move(0, MoveKind.CANCEL)], run=after, why="so be it")
    unchanged = snapshot(run)

    if (before, after) in RUN_TABLE:
        check_run_move(before, after)
        evolve(run, decision, T0)
        assert (run.run_state, run.reason) == (after, "so be it")
    else:
        with pytest.raises(IllegalMove, match=f"the run is {before} and cannot move by to {after}"):
            check_run_move(before, after)
        with pytest.raises(IllegalMove):
            evolve(run, decision, T0)
        assert snapshot(run) == unchanged
    assert {(a, b) for a in RunState for b in RUN_MOVES[a]} == RUN_TABLE
    assert {state for state in RunState if RUN_MOVES[state] == {RunState.RUNNING}} == ENDED_RUNS


def test_one_refused_move_refuses_the_whole_decision() -> None:
    """Moves are checked before the first is applied, so a decision for another run changes nothing."""
    run = loaded([node(), node()])
    before = snapshot(run)
    with pytest.raises(IllegalMove):
        evolve(run, Decision([Move(0, MoveKind.READY), Move(1, MoveKind.DISPATCH)]), T0)
    assert snapshot(run) == before
