"""decide and evolve, one event at a time: before, act, after."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from scheduler.core.branching import SHOWN_REASON
from scheduler.core.decide import decide
from scheduler.core.events import (
    STALE,
    Admitted,
    CancelRequested,
    DeadlinePassed,
    Decision,
    Event,
    GraceOver,
    LeaseExpired,
    Opened,
    RetryDue,
    RetryRequested,
    Timer,
)
from scheduler.core.evolve import evolve
from scheduler.core.retry import MOST_EXCUSED
from scheduler.core.run import Run
from scheduler.core.states import MoveKind, RunState
from scheduler.core.verbs import GRACE_MS
from tests.unit.core.compiled import (
    T0,
    happen,
    loaded,
    meaning,
    node,
    opened,
    ready,
    rebuilt,
    reported,
    sent,
    snapshot,
    words,
)

BOTH = (False, True)
Seen = list[tuple[int, str, int]]


def moves(decision: Decision) -> Seen:
    """(node, move, cause) of each move, in order."""
    return [(it.node, MoveKind(it.kind).word, it.cause) for it in decision.moves]


def expired(
    run: Run, number: int, *, claimed: bool = True, hard_end: bool = False, attempt: int | None = None
) -> LeaseExpired:
    """The lease of a node's current attempt ran out."""
    of = run.attempt[number] if attempt is None else attempt
    return LeaseExpired(number, 1, of, T0 if claimed else None, "w@host" if claimed else "", hard_end, 0.5)


# --- opened ---------------------------------------------------------------------------------------------------


def test_nodes_without_upstream_begin() -> None:
    """They get attempt 1; the others wait."""
    run = loaded([node(), node(0), node()])
    decision = happen(run, Opened(), T0 + 7)
    assert moves(decision) == [(0, "ready", -1), (2, "ready", -1)]
    assert words(run) == ["ready", "pending", "ready"]
    assert list(run.attempt) == [1, 0, 1]
    assert decision.run is None


def test_a_node_without_upstream_begins_under_every_rule() -> None:
    """A rule about upstream nodes has nothing to say where there are none."""
    rules = ("all_failed", "all_skipped", "one_success", "one_failed", "quorum(3)", "none_failed_min_one_success")
    run = opened(*(node(rule=rule) for rule in rules))
    assert set(words(run)) == {"ready"}


def test_always_does_not_wait_for_its_upstream() -> None:
    """It begins with the run."""
    run = opened(node(), node(0, rule="always"))
    assert words(run) == ["ready", "ready"]


def test_a_quorum_that_cannot_be_reached_is_skipped_at_once() -> None:
    """quorum(3) of two nodes; what hangs on it is skipped for its sake."""
    run = loaded([node(), node(), node(0, 1, rule="quorum(3)"), node(2)])
    decision = happen(run, Opened(), T0)
    assert moves(decision) == [(0, "ready", -1), (1, "ready", -1), (2, "skip", -1), (3, "skip", 2)]


def test_a_run_of_nothing_succeeds() -> None:
    """An empty graph ends with its opening."""
    run = loaded([])
    assert happen(run, Opened(), T0).run is RunState.SUCCEEDED


def test_opening_sets_the_deadline() -> None:
    """As a timer with the run's own instant, also when the run is taken up again."""
    run = loaded([node()])
    run.deadline_at_ms = T0 + 60_000
    assert happen(run, Opened(), T0).timers == [Timer("deadline", T0 + 60_000)]
    assert decide(run, Opened(), T0 + 5).timers == [Timer("deadline", T0 + 60_000)]


def test_opening_a_run_again_decides_nothing_new() -> None:
    """A run whose decisions were all recorded goes on as it is."""
    run = sent(node(), node(0))
    before = snapshot(run)
    decision = happen(run, Opened(), T0 + 5)
    assert decision.moves == []
    assert snapshot(run) == before


def test_what_a_crash_kept_from_the_record_is_decided_again() -> None:
    """Only node 0's failure was recorded; the rest follows on loading, with the same causes as before the crash."""
    specs = [node(max_attempts=1), node(0), node(1), node(0, rule="one_failed"), node(0, rule="all_failed")]
    run = sent(*specs)
    happen(run, reported(run, 0, "failed"), T0)
    again = loaded(specs, [(0, run.record(0).encode())])
    decision = happen(again, Opened(), T0)
    assert sorted(moves(decision)) == [
        (1, "upstream_fail", 0),
        (2, "upstream_fail", 1),
        (3, "ready", -1),
        (4, "ready", -1),
    ]
    assert again.cause == run.cause
    assert words(again) == words(run)


def test_a_run_whose_last_record_was_written_and_not_its_end_ends_on_loading() -> None:
    """The end follows from the nodes."""
    specs = [node(), node(0, max_attempts=1)]
    run = sent(*specs)
    happen(run, reported(run, 0), T0)
    happen(run, Admitted([1]), T0)
    happen(run, reported(run, 1, "failed"), T0)
    again = loaded(specs, [(at, run.record(at).encode()) for at in (0, 1)])
    assert happen(again, Opened(), T0).run is RunState.FAILED


def test_a_cancel_broken_off_by_a_crash_goes_on() -> None:
    """The run is recorded as cancelling and some nodes are not: they are cancelled, what runs gets its grace."""
    specs = [node(), node(), node(0)]
    run = sent(*specs)
    again = rebuilt(run, specs)
    again.run_state, again.reason = RunState.CANCELLING, "cancelled: enough"
    decision = happen(again, Opened(), T0 + 50)
    assert words(again) == ["dispatched", "dispatched", "cancelled"]
    assert decision.timers == [Timer("grace", T0 + 50 + GRACE_MS)]
    assert again.run_state is RunState.CANCELLING
    happen(again, GraceOver(), T0 + 60_000)
    assert (again.run_state, again.reason) == (RunState.CANCELLED, "cancelled: enough")


def test_a_cancel_of_which_only_nodes_were_recorded_waits_for_its_event() -> None:
    """The run does not end failed for its cancelled nodes: the request was not consumed and comes again."""
    specs = [node(), node(0)]
    run = opened(*specs)
    happen(run, CancelRequested("enough", frozenset()), T0)
    again = loaded(specs, [(at, run.record(at).encode()) for at in (0, 1)])
    assert happen(again, Opened(), T0) == Decision()
    happen(again, CancelRequested("enough", frozenset()), T0)
    assert (again.run_state, again.reason) == (RunState.CANCELLED, "cancelled: enough")


def test_a_stop_that_a_crash_broke_off_decides_nothing_before_its_event_comes_again() -> None:
    """Not a node for the sake of cancelled ones, and not the run's end; the deadline's timer is set again."""
    specs = [node(), node(0, rule="all_done"), node()]
    run = sent(*specs)
    again = loaded(specs, [(2, run.record(2).encode()), (0, b"C|1|1|0|0|0,0,,9,cancelled,|")])
    again.deadline_at_ms = T0 + 9
    assert happen(again, Opened(), T0 + 10) == Decision(timers=[Timer("deadline", T0 + 9)])
    happen(again, DeadlinePassed(), T0 + 11)
    assert words(again) == ["cancelled"] * 3
    assert (again.run_state, again.reason) == (RunState.FAILED, "the run's deadline passed")


def test_a_report_does_not_end_a_run_whose_stop_was_broken_off() -> None:
    """Its last open node succeeds first; the cancel, when it comes again, says how the run ended."""
    specs = [node(), node()]
    run = sent(*specs)
    again = loaded(specs, [(1, run.record(1).encode()), (0, b"C|1|1|0|0|0,0,,9,cancelled,|")])
    happen(again, Opened(), T0 + 10)
    assert happen(again, reported(again, 1), T0 + 11).run is None
    assert happen(again, CancelRequested("enough", frozenset()), T0 + 12).run is RunState.CANCELLED


# --- reports --------------------------------------------------------------------------------------------------


def test_a_success_starts_what_waited_for_it_alone() -> None:
    """Node 3 needs both; the log sees which rule matched, with the counts."""
    run = sent(node(), node(), node(0), node(0, 1))
    decision = happen(run, reported(run, 0, at_ms=T0 + 10), T0 + 11)
    assert moves(decision) == [(0, "succeed", -1), (2, "ready", 0)]
    assert decision.moves[1].why == "all_success 1,0,0,0 of 1"
    assert words(run) == ["succeeded", "dispatched", "ready", "pending"]

    decision = happen(run, reported(run, 1), T0 + 12)
    assert moves(decision) == [(1, "succeed", -1), (3, "ready", 1)]
    assert run.counts(3) == (2, 2, 0, 0, 0)


def test_the_last_success_ends_the_run() -> None:
    """Once, with a reason, and the deadline is no longer waited for."""
    run = sent(node())
    decision = happen(run, reported(run, 0), T0)
    assert (decision.run, decision.why) == (RunState.SUCCEEDED, "every last node succeeded or was skipped")
    assert "deadline" in decision.cancelled
    assert run.run_state is RunState.SUCCEEDED
    assert (run.open, run.bad) == (0, 0)


def test_a_failure_with_tries_left_waits_by_the_ladder() -> None:
    """1000 ms x 2^0 x 0.5 after the first failure, x 2^1 after the second; then no try is left."""
    run = sent(node(max_attempts=3))
    decision = happen(run, reported(run, 0, "failed"), T0 + 100)
    assert moves(decision) == [(0, "retry", -1)]
    assert decision.timers == [Timer("retry:0:1", T0 + 600)]
    assert decision.moves[0].why == "transient: try again in 500 ms, failed 1 of at most 3 times"
    assert decision.moves[0].error is not None
    assert words(run) == ["waiting"]

    assert moves(happen(run, RetryDue(0, 1), T0 + 600)) == [(0, "wake", -1)]
    assert (words(run), run.attempt[0], run.failures[0]) == (["ready"], 2, 1)
    happen(run, Admitted([0]), T0 + 601)
    assert happen(run, reported(run, 0, "failed"), T0 + 700).timers == [Timer("retry:0:2", T0 + 1700)]
    happen(run, RetryDue(0, 2), T0 + 1700)
    happen(run, Admitted([0]), T0 + 1700)

    decision = happen(run, reported(run, 0, "failed"), T0 + 1800)
    assert moves(decision) == [(0, "fail", -1)]
    assert decision.moves[0].why == "transient: attempt failed 3 of at most 3 times"
    assert decision.timers == []
    assert (run.run_state, run.attempt[0], run.failures[0], run.losses[0]) == (RunState.FAILED, 3, 3, 0)


def test_a_failure_that_no_try_can_mend_is_final() -> None:
    """Whatever tries are left."""
    run = sent(node(max_attempts=9))
    assert moves(happen(run, reported(run, 0, "failed", kind="invalid_input"), T0)) == [(0, "fail", -1)]


def test_celerys_retry_is_a_failed_attempt_that_names_its_wait() -> None:
    """Retried with a countdown of 7 s: exactly that, and it uses up a try."""
    run = sent(node(max_attempts=2))
    decision = happen(run, reported(run, 0, "retried", retry_after_ms=7000), T0)
    assert decision.timers == [Timer("retry:0:1", T0 + 7000)]
    happen(run, RetryDue(0, 1), T0 + 7000)
    happen(run, Admitted([0]), T0 + 7000)
    assert moves(happen(run, reported(run, 0, "retried", retry_after_ms=7000), T0)) == [(0, "fail", -1)]


def test_a_rate_limit_names_its_wait_too() -> None:
    """The executor knows better than the ladder when it may come again."""
    run = sent(node())
    decision = happen(run, reported(run, 0, "failed", kind="rate_limited", retry_after_ms=90_000), T0)
    assert decision.timers == [Timer("retry:0:1", T0 + 90_000)]


def test_a_failure_without_an_error_is_still_a_failure() -> None:
    """A worker of another version may leave the error out."""
    run = sent(node(max_attempts=1))
    decision = happen(run, reported(run, 0, "failed")._replace(error=None), T0)
    assert moves(decision) == [(0, "fail", -1)]
    assert decision.moves[0].error is not None


def test_an_error_without_a_kind_is_transient() -> None:
    """The kind is what a retry is decided by; without one it is what most exceptions are."""
    run = sent(node(max_attempts=2))
    assert moves(happen(run, reported(run, 0, "failed")._replace(error={"type": "X"}), T0)) == [(0, "retry", -1)]
    happen(run, RetryDue(0, 1), T0)
    happen(run, Admitted([0]), T0)
    assert moves(happen(run, reported(run, 0, "failed")._replace(error={"type": "X"}), T0)) == [(0, "fail", -1)]


def test_a_final_failure_spreads_with_its_cause_and_other_branches_go_on() -> None:
    """0 fails: 1 and 2 behind it will not run, the error path 3 runs, 5 is skipped, and branch 4 is untouched."""
    run = sent(
        node(max_attempts=1),
        node(0),
        node(1),
        node(0, rule="one_failed"),
        node(),
        node(4, rule="all_failed"),
        node(5),
    )
    decision = happen(run, reported(run, 0, "failed"), T0)
    assert moves(decision) == [(0, "fail", -1), (1, "upstream_fail", 0), (3, "ready", 0), (2, "upstream_fail", 1)]
    assert run.cause == {1: 0, 2: 1}
    assert run.run_state is RunState.RUNNING

    decision = happen(run, reported(run, 4), T0)
    assert moves(decision) == [(4, "succeed", -1), (5, "skip", 4), (6, "skip", 5)]
    happen(run, Admitted(ready(run)), T0)
    decision = happen(run, reported(run, 3), T0)
    assert words(run) == [
        "failed",
        "upstream_failed",
        "upstream_failed",
        "succeeded",
        "succeeded",
        "skipped",
        "skipped",
    ]
    assert (decision.run, decision.why) == (RunState.FAILED, "1 of the last nodes did not succeed")


def test_a_failure_that_a_later_node_makes_good_does_not_fail_the_run() -> None:
    """The last nodes decide: an error handler that succeeds, and a join that takes what there is."""
    run = sent(node(max_attempts=1), node(0, rule="all_done"))
    happen(run, reported(run, 0, "failed"), T0)
    happen(run, Admitted([1]), T0)
    assert happen(run, reported(run, 1), T0).run is RunState.SUCCEEDED


def test_only_the_last_nodes_decide_how_the_run_ended() -> None:
    """A failure whose one successor is skipped ends the run at once, and not as failed."""
    run = sent(node(max_attempts=1), node(0, rule="all_skipped"))
    decision = happen(run, reported(run, 0, "failed"), T0)
    assert moves(decision) == [(0, "fail", -1), (1, "skip", 0)]
    assert decision.run is RunState.SUCCEEDED


def test_a_skip_does_not_fail_the_run() -> None:
    """A branch that was not taken is no failure."""
    run = sent(node(), node(0, rule="one_failed"))
    assert happen(run, reported(run, 0), T0).run is RunState.SUCCEEDED
    assert words(run) == ["succeeded", "skipped"]


def test_a_node_that_did_not_wait_is_not_asked_again() -> None:
    """one_success starts with the first; later ends only count, and a late failure does not take the start back."""
    run = sent(node(), node(max_attempts=1), node(0, 1, rule="one_success"))
    assert moves(happen(run, reported(run, 0), T0)) == [(0, "succeed", -1), (2, "ready", 0)]
    assert moves(happen(run, reported(run, 1, "failed"), T0)) == [(1, "fail", -1)]
    assert run.counts(2) == (2, 1, 1, 0, 0)
    assert words(run)[2] == "ready"


def test_a_long_way_down_spreads_in_one_decision() -> None:
    """5,000 nodes in a row behind a failure; no recursion."""
    run = sent(node(max_attempts=1), *(node(at) for at in range(5000)))
    decision = happen(run, reported(run, 0, "failed"), T0)
    assert len(decision.moves) == 5001
    assert decision.run is RunState.FAILED


# --- lost attempts --------------------------------------------------------------------------------------------


def test_a_lost_attempt_is_tried_again_at_once_and_uses_up_no_try() -> None:
    """No wait, no failure counted, a new attempt number."""
    run = sent(node(max_attempts=1, max_losses=2))
    decision = happen(run, expired(run, 0), T0 + 20_000)
    assert moves(decision) == [(0, "lose", -1)]
    assert decision.moves[0].error == {
        "kind": "lost",
        "type": "LeaseExpired",
        "message": "nothing was heard of worker w@host for the length of a lease",
        "origin": "infrastructure",
        "phase": "execute",
        "correlation_id": run.id,
    }
    assert (words(run), run.attempt[0], run.failures[0], run.losses[0]) == (["ready"], 2, 0, 1)
    assert decision.timers == []


@pytest.mark.parametrize("max_losses", [0, 1, 3])
def test_lost_attempts_have_a_cap_of_their_own(max_losses: int) -> None:
    """One more than max_losses fails the node: its work may be what kills the workers."""
    run = sent(node(max_losses=max_losses), node(0))
    for _ in range(max_losses):
        assert moves(happen(run, expired(run, 0), T0)) == [(0, "lose", -1)]
        happen(run, Admitted([0]), T0)
    decision = happen(run, reported(run, 0, "lost", type_="WorkerLost"), T0)
    assert moves(decision) == [(0, "fail", -1), (1, "upstream_fail", 0)]
    assert (
        decision.moves[0].why == f"lost: {max_losses + 1} attempts lost to infrastructure, at most {max_losses} allowed"
    )
    assert decision.moves[0].error is not None
    assert decision.moves[0].error["kind"] == "lost"
    assert (run.failures[0], run.losses[0]) == (0, max_losses + 1)
    assert [it.end for it in run.tries(0)] == ["lost"] * (max_losses + 1)


def test_an_attempt_that_never_ran_is_no_loss() -> None:
    """Never claimed, or its worker was shut down in good order: a new attempt, as often as it takes."""
    run = sent(node(max_attempts=1, max_losses=0))
    for at in range(20):
        event: Event = expired(run, 0, claimed=False) if at % 2 else reported(run, 0, "lost", type_="WorkerShutdown")
        assert moves(happen(run, event, T0)) == [(0, "lose", -1)]
        happen(run, Admitted([0]), T0)
    assert (run.attempt[0], run.losses[0], run.failures[0]) == (21, 0, 0)


def test_an_attempt_past_its_hard_end_is_a_timeout_and_uses_up_a_try() -> None:
    """Its lease ends with its time limit; that is the executor's doing, not a loss."""
    run = sent(node(max_attempts=2))
    decision = happen(run, expired(run, 0, hard_end=True), T0 + 1000)
    assert moves(decision) == [(0, "retry", -1)]
    assert decision.timers == [Timer("retry:0:1", T0 + 1500)]
    assert decision.moves[0].error is not None
    assert decision.moves[0].error["kind"] == "timeout"
    happen(run, RetryDue(0, 1), T0)
    happen(run, Admitted([0]), T0)
    assert moves(happen(run, expired(run, 0, hard_end=True), T0)) == [(0, "fail", -1)]
    assert (run.failures[0], run.losses[0]) == (2, 0)


def test_an_attempt_that_was_never_claimed_cannot_time_out() -> None:
    """Its time limit did not run."""
    run = sent(node(max_attempts=1))
    assert moves(happen(run, expired(run, 0, claimed=False, hard_end=True), T0)) == [(0, "lose", -1)]


# --- cancel and deadline --------------------------------------------------------------------------------------


def test_a_cancel_with_nothing_running_ends_the_run() -> None:
    """Pending, ready, waiting, and sent but not claimed: all cancelled at once; the retry's timer goes too."""
    run = sent(node(), node(0), node())
    happen(run, reported(run, 2, "failed"), T0)
    decision = happen(run, CancelRequested("enough", frozenset()), T0 + 9)
    assert moves(decision) == [(0, "cancel", -1), (1, "cancel", -1), (2, "cancel", -1)]
    assert {move.why for move in decision.moves} == {"cancelled: enough"}
    assert set(decision.cancelled) == {"deadline", "retry:2:1"}
    assert decision.timers == []
    assert (run.run_state, run.reason) == (RunState.CANCELLED, "cancelled: enough")


def test_a_wide_run_is_cancelled_part_by_part() -> None:
    """First what is in flight and the first part; then each Opened goes on; the last one ends the run."""
    run = sent(*(node() for _ in range(4)), node(0), node(0))
    happen(run, reported(run, 3, "failed"), T0)
    decision = happen(run, CancelRequested("enough", frozenset(), 2), T0 + 9)
    assert moves(decision) == [(0, "cancel", -1), (1, "cancel", -1), (2, "cancel", -1)]
    assert (decision.run, decision.timers) == (RunState.CANCELLING, [Timer("grace", T0 + 9 + GRACE_MS)])

    decision = happen(run, Opened(2, 4), T0 + 10)
    assert moves(decision) == [(3, "cancel", -1)]
    assert decision.cancelled == ["retry:3:1"]
    assert (decision.run, decision.timers) == (None, [])
    decision = happen(run, Opened(4, 6), T0 + 11)
    assert moves(decision) == [(4, "cancel", -1), (5, "cancel", -1)]
    assert (decision.run, decision.why) == (RunState.CANCELLED, "cancelled: enough")
    assert "grace" in decision.cancelled


def test_a_cancel_gives_what_runs_a_grace() -> None:
    """What a worker has claimed may end; nothing begins any more; then the run is cancelled."""
    run = sent(node(), node(), node(0))
    decision = happen(run, CancelRequested("enough", frozenset({0})), T0 + 9)
    assert moves(decision) == [(1, "cancel", -1), (2, "cancel", -1)]
    assert decision.timers == [Timer("grace", T0 + 9 + GRACE_MS)]
    assert run.run_state is RunState.CANCELLING

    assert decide(run, Admitted([0]), T0) is STALE
    decision = happen(run, reported(run, 0), T0 + 20)
    assert moves(decision) == [(0, "succeed", -1)]
    assert (decision.run, decision.why) == (RunState.CANCELLED, "cancelled: enough")
    assert "grace" in decision.cancelled
    assert words(run) == ["succeeded", "cancelled", "cancelled"]


@pytest.mark.parametrize("how", ["failed", "lost", "retried", "expired", "timeout"])
def test_an_attempt_that_ends_badly_during_the_grace_is_not_tried_again(how: str) -> None:
    """The node is cancelled, its error kept."""
    run = sent(node())
    happen(run, CancelRequested("enough", frozenset({0})), T0)
    event: Event = reported(run, 0, how)
    if how in ("expired", "timeout"):
        event = expired(run, 0, hard_end=how == "timeout")
    decision = happen(run, event, T0)
    assert moves(decision) == [(0, "cancel", -1)]
    assert decision.moves[0].error is not None
    assert decision.timers == []
    assert run.run_state is RunState.CANCELLED


def test_what_outlives_the_grace_is_cancelled() -> None:
    """The run ends whether or not the attempt does; its report is late."""
    run = sent(node(), node())
    happen(run, CancelRequested("enough", frozenset({0, 1})), T0)
    late = reported(run, 0)
    decision = happen(run, GraceOver(), T0 + GRACE_MS)
    assert moves(decision) == [(0, "cancel", -1), (1, "cancel", -1)]
    assert decision.run is RunState.CANCELLED
    assert decide(run, late, T0) is STALE


def test_a_second_cancel_changes_nothing() -> None:
    """The grace is not prolonged and the first reason stays."""
    run = sent(node())
    happen(run, CancelRequested("enough", frozenset({0})), T0)
    before = snapshot(run)
    assert decide(run, CancelRequested("really", frozenset()), T0 + 5000) is STALE
    assert snapshot(run) == before


def test_a_deadline_ends_the_run_at_once() -> None:
    """Everything open is cancelled, what runs included, and the run has failed."""
    run = sent(node(), node(0), node())
    run.deadline_at_ms = T0 + 60_000
    happen(run, reported(run, 2), T0)
    decision = happen(run, DeadlinePassed(), T0 + 60_000)
    assert moves(decision) == [(0, "cancel", -1), (1, "cancel", -1)]
    assert decision.timers == []
    assert (run.run_state, run.reason) == (RunState.FAILED, "the run's deadline passed")
    assert words(run) == ["cancelled", "cancelled", "succeeded"]


def test_a_deadline_during_a_cancel_leaves_the_grace_alone() -> None:
    """The run is being stopped already."""
    run = sent(node())
    happen(run, CancelRequested("enough", frozenset({0})), T0)
    assert decide(run, DeadlinePassed(), T0) is STALE


def test_a_grace_without_a_cancel_decides_nothing() -> None:
    """Such as one whose timer outlived its run's stop."""
    assert decide(sent(node()), GraceOver(), T0) is STALE


# --- admitted -------------------------------------------------------------------------------------------------


def test_what_is_admitted_is_dispatched() -> None:
    """The ready nodes that were named, and no others."""
    run = opened(node(), node(), node())
    assert moves(happen(run, Admitted([2, 0]), T0 + 3)) == [(2, "dispatch", -1), (0, "dispatch", -1)]
    assert words(run) == ["dispatched", "ready", "dispatched"]
    assert list(run.attempt) == [1, 1, 1]


@pytest.mark.parametrize("nodes", [[1], [0], [7], [-1], [], [0, 1, 7]])
def test_what_is_not_ready_cannot_be_admitted(nodes: list[int]) -> None:
    """Already dispatched, still pending, unknown: nothing is sent for it."""
    run = sent(node(), node(0))
    assert decide(run, Admitted(nodes), T0) is STALE


def test_a_node_admitted_twice_at_once_is_dispatched_once() -> None:
    """One attempt, one message."""
    run = opened(node())
    assert moves(happen(run, Admitted([0, 0]), T0)) == [(0, "dispatch", -1)]


# --- what comes twice, late, or for nobody --------------------------------------------------------------------


def stale_events(run: Run) -> list[Event]:
    """Node 0 is on attempt 2, node 1 pending; these concern attempt 1, later attempts, or nodes there are not."""
    late: list[Event] = []
    for attempt in (0, 1, 3):
        late += [reported(run, 0, end, attempt=attempt) for end in ("succeeded", "failed", "lost", "retried")]
        late += [expired(run, 0, claimed=claimed, hard_end=hard, attempt=attempt) for claimed in BOTH for hard in BOTH]
        late.append(RetryDue(0, attempt))
    late += [reported(run, 1, attempt=0), reported(run, 2), reported(run, 10**9), RetryDue(2, 1), RetryDue(1, 0)]
    late += [expired(run, 1, attempt=0), expired(run, 2, attempt=1), reported(run, 0, epoch=2)]
    late += [expired(run, 0)._replace(epoch=0), GraceOver()]
    # node 0 by Python's counting from the end
    late += [reported(run, 0)._replace(node=-run.n), expired(run, 0)._replace(node=-run.n)]
    return late


def test_duplicates_and_late_events_decide_nothing() -> None:
    """While attempt 2 runs, whatever concerns attempt 1, a later epoch or an unknown node changes nothing."""
    run = sent(node(), node(0))
    happen(run, expired(run, 0), T0)
    happen(run, Admitted([0]), T0)
    before = snapshot(run)
    for event in stale_events(run):
        assert decide(run, event, T0 + 1) is STALE, event
        assert snapshot(run) == before
    assert moves(happen(run, reported(run, 0), T0)) == [(0, "succeed", -1), (1, "ready", 0)]


def test_a_report_that_comes_twice_counts_once() -> None:
    """Whether it repeats or contradicts what is recorded."""
    run = sent(node(), node(0))
    first = reported(run, 0)
    happen(run, first, T0)
    before = snapshot(run)
    for again in (first, reported(run, 0, "failed"), reported(run, 0, "lost"), expired(run, 0)):
        assert decide(run, again, T0 + 1) is STALE
    assert snapshot(run) == before


def test_a_failure_that_comes_twice_uses_up_one_try() -> None:
    """The second finds the node waiting, or on its next attempt."""
    run = sent(node(max_attempts=2))
    first = reported(run, 0, "failed")
    happen(run, first, T0)
    assert decide(run, first, T0) is STALE
    assert decide(run, RetryDue(0, 2), T0) is STALE
    assert decide(run, RetryDue(-1, 1), T0) is STALE
    happen(run, RetryDue(0, 1), T0)
    assert decide(run, first, T0) is STALE
    assert decide(run, RetryDue(0, 1), T0) is STALE
    happen(run, Admitted([0]), T0)
    assert decide(run, first, T0) is STALE
    assert run.failures[0] == 1


def test_nothing_happens_to_a_run_that_has_ended() -> None:
    """Every kind of event is stale."""
    run = sent(node(), node(0))
    last = reported(run, 0)
    happen(run, CancelRequested("enough", frozenset()), T0)
    before = snapshot(run)
    events: list[Event] = [Opened(), Admitted([0, 1]), last, expired(run, 0), RetryDue(0, 1)]
    events += [DeadlinePassed(), CancelRequested("again", frozenset({0})), GraceOver()]
    for event in events:
        assert decide(run, event, T0) is STALE
    assert snapshot(run) == before
    assert Decision(stale=True) == STALE


# --- cost -----------------------------------------------------------------------------------------------------


class Counted:
    """How many elements of a run's arrays were read or written."""

    def __init__(self, run: Run) -> None:
        self.touched = 0
        for name in ("state", "attempt", "failures", "losses", "tally", "up_at", "up", "down_at", "down", "profile"):
            setattr(run, name, _counting(getattr(run, name), self))


def _counting(values: Any, count: Counted) -> Any:
    kind = type(values)

    class Counting(kind):  # type: ignore[misc,valid-type]
        def __getitem__(self, at: Any) -> Any:
            count.touched += len(range(*at.indices(len(self)))) if isinstance(at, slice) else 1
            return kind.__getitem__(self, at)

        def __setitem__(self, at: Any, value: Any) -> None:
            count.touched += 1
            kind.__setitem__(self, at, value)

        def __iter__(self) -> Any:
            count.touched += len(self)
            return kind.__iter__(self)

        def __contains__(self, value: object) -> bool:
            count.touched += len(self)
            return bool(kind.__contains__(self, value))

        def count(self, value: Any) -> int:
            count.touched += len(self)
            return int(kind.count(self, value))

    return Counting(values) if kind is bytearray else Counting(values.typecode, values)


def layers(n: int, width: int) -> Run:
    """A run of n nodes in layers, each node but the first layer's after three of the layer before; layer 0 is sent."""
    specs = [node() for _ in range(width)]
    for at in range(width, n):
        first = (at // width - 1) * width
        specs.append(node(*sorted({first + (at + by) % width for by in range(3)})))
    run = opened(*specs)
    happen(run, Admitted(list(range(10))), T0)
    return run


def cost(run: Run, act: Callable[[Run], None]) -> tuple[int, int]:
    """(elements of arrays touched, lines of Python executed) by an act; both exact, whatever the machine does."""
    steps = 0

    def tracer(frame: Any, event: str, _argument: Any) -> Any:
        nonlocal steps
        if "core" not in frame.f_code.co_filename:
            return None  # a finalizer that happened to run meanwhile
        steps += event == "line"
        return tracer

    count = Counted(run)
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        act(run)
    finally:
        sys.settrace(before)
    return count.touched, steps


ACTS: dict[str, Callable[[Run], Any]] = {
    "success": lambda run: happen(run, reported(run, 3), T0),
    "retry": lambda run: happen(run, reported(run, 3, "failed"), T0),
    "loss": lambda run: happen(run, expired(run, 3), T0),
    "admission": lambda run: happen(run, Admitted([50, 51]), T0),
    "duplicate": lambda run: decide(run, reported(run, 3, attempt=0), T0),
}


@pytest.mark.parametrize("act", ACTS)
def test_an_event_costs_the_same_in_a_run_of_any_size(act: str) -> None:
    """O(out-edges): array elements touched and lines executed are as many in 100,000 nodes as in 1,000."""
    small, large = cost(layers(1000, 100), ACTS[act]), cost(layers(100_000, 100), ACTS[act])
    assert small == large
    assert small[0] < 120


def test_an_event_costs_by_its_out_edges() -> None:
    """Each further node downstream of the one that ends costs the same again."""
    costs = []
    for fan in (10, 20, 1000):
        run = sent(node(), node(), *(node(0, 1) for _ in range(fan)))
        costs.append(cost(run, lambda run: evolve(run, decide(run, reported(run, 0), T0), T0)))
    each = (costs[1][0] - costs[0][0]) / 10
    assert costs[2][0] - costs[1][0] == pytest.approx(980 * each)
    assert costs[2][1] - costs[1][1] == pytest.approx(98 * (costs[1][1] - costs[0][1]))


# --- a retry of an ended run ------------------------------------------------------------------------------------


def test_a_retry_runs_what_failed_and_what_follows_and_nothing_else() -> None:
    """Of a -> b, a -> c -> d, c -> e(one_failed) with c failed: c, d and e run again, a and b do not."""
    specs = [node(), node(0), node(0, max_attempts=1), node(2), node(2, rule="one_failed")]
    run = sent(*specs)
    happen(run, reported(run, 0), T0 + 1)
    happen(run, Admitted([1, 2]), T0 + 2)
    happen(run, reported(run, 1), T0 + 3)
    happen(run, reported(run, 2, "failed"), T0 + 4)
    happen(run, Admitted([4]), T0 + 5)
    assert happen(run, reported(run, 4), T0 + 6).run is RunState.FAILED
    run = rebuilt(run, specs)

    decision = happen(run, RetryRequested("the disk is back"), T0 + 100)
    assert moves(decision) == [(2, "reopen", -1), (3, "reopen", -1), (4, "reopen", -1)]
    assert (run.run_state, run.reason) == (RunState.RUNNING, "retry: the disk is back")
    assert moves(happen(run, Opened(), T0 + 101)) == [(2, "ready", -1)]
    assert meaning(rebuilt(run, specs)).counts == meaning(run).counts

    happen(run, Admitted([2]), T0 + 102)
    assert (run.epoch[2], run.attempt[2], run.failures[2]) == (2, 2, 0)
    assert decide(run, reported(run, 2, epoch=1), T0 + 103) is STALE
    happen(run, reported(run, 2, epoch=2), T0 + 103)
    happen(run, Admitted([3]), T0 + 104)
    assert happen(run, reported(run, 3, epoch=2), T0 + 105).run is RunState.SUCCEEDED
    assert words(run) == ["succeeded", "succeeded", "succeeded", "succeeded", "skipped"]
    assert [it.end for it in run.tries(2)] == ["failed", "succeeded"]


def test_a_retry_of_a_run_that_lives_or_in_which_nothing_failed_changes_nothing() -> None:
    """There is nothing to open again."""
    run = sent(node())
    assert decide(run, RetryRequested(""), T0) is STALE
    happen(run, reported(run, 0), T0)
    assert run.run_state is RunState.SUCCEEDED
    assert decide(run, RetryRequested(""), T0) is STALE


def test_a_cancelled_run_can_be_retried_and_has_no_deadline_any_more() -> None:
    """What was cancelled is open again; what had succeeded is not."""
    run = sent(node(), node(0))
    run.deadline_at_ms = T0 + 10
    happen(run, reported(run, 0), T0)
    happen(run, DeadlinePassed(), T0 + 10)
    assert words(run) == ["succeeded", "cancelled"]
    happen(run, RetryRequested("more time"), T0 + 20)
    assert decide(run, Opened(), T0 + 21).timers == []
    assert (words(run), run.open, run.bad) == (["succeeded", "pending"], 1, 0)


def test_a_retry_that_a_crash_broke_off_goes_on_when_it_is_asked_for_again() -> None:
    """Of three reopened nodes only one was recorded: the others follow, and the run lives."""
    specs = [node(max_attempts=1), node(0), node(0)]
    run = sent(*specs)
    assert happen(run, reported(run, 0, "failed"), T0).run is RunState.FAILED
    half = rebuilt(run, specs)
    happen(half, RetryRequested("x"), T0)
    kept = {at: run.record(at).encode() for at in range(3)} | {0: half.record(0).encode()}
    found = loaded(specs, kept.items())
    found.run_state = RunState.FAILED

    decision = happen(found, RetryRequested("x"), T0 + 1)
    assert moves(decision) == [(1, "reopen", -1), (2, "reopen", -1)]
    assert found.run_state is RunState.RUNNING
    assert moves(happen(found, Opened(), T0 + 2)) == [(0, "ready", -1)]


# --- caps of losses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["NeverClaimed", "WorkerShutdown"])
def test_losses_that_are_nobody_s_fault_have_a_cap_of_their_own(kind: str) -> None:
    """A hundred are borne, the next ends the node and is named; they do not count against the cap for poison."""
    run = sent(node(max_losses=0))

    def lose() -> Decision:
        event: Event = expired(run, 0, claimed=False)
        if kind == "WorkerShutdown":
            event = reported(run, 0, "lost", kind="lost", type_=kind)
        decision = happen(run, event, T0)
        happen(run, Admitted([0]), T0) if words(run) == ["ready"] else None
        return decision

    for _ in range(MOST_EXCUSED):
        assert moves(lose()) == [(0, "lose", -1)]
        run = rebuilt(run, [node(max_losses=0)])
    decision = lose()
    assert moves(decision) == [(0, "fail", -1)]
    error = decision.moves[0].error
    assert error is not None
    assert error["kind"] == "lost"
    assert f"at most {MOST_EXCUSED} allowed: {kind} x{MOST_EXCUSED + 1}" in error["message"]
    assert run.run_state is RunState.FAILED


def test_the_end_of_poison_names_the_cause_of_each_loss() -> None:
    """Not only the last one's; those of an earlier epoch are over."""
    run = sent(node(max_losses=2))
    for type_ in ("WorkerLostError", "MemoryError"):
        happen(run, reported(run, 0, "lost", kind="lost", type_=type_), T0)
        happen(run, Admitted([0]), T0)
    decision = happen(run, expired(run, 0), T0)
    error = decision.moves[0].error
    assert error is not None
    for cause in ("WorkerLostError x1", "MemoryError x1", "LeaseExpired x1", "3 attempts lost", "at most 2"):
        assert cause in error["message"]
    happen(run, RetryRequested("again"), T0)
    happen(run, Opened(), T0)
    happen(run, Admitted([0]), T0)
    assert (run.losses[0], run.excused[0]) == (0, 0)


def test_a_long_reason_is_not_repeated_for_every_node() -> None:
    """A cancel with a reason of two thousand characters writes it once whole, and shortly per node."""
    run = sent(*(node() for _ in range(3)))
    decision = happen(run, CancelRequested("x" * 2_000, frozenset()), T0)
    assert all(len(it.why) <= SHOWN_REASON for it in decision.moves)
    assert len(decision.why) > 2_000
