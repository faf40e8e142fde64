"""What people ask of nodes of a run: cancel, skip, complete by hand, run again; and of its deadline and priority."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scheduler.core.events import (
    Asker,
    CancelRequested,
    CompleteRequested,
    DeadlinePassed,
    DeadlineRequested,
    Decision,
    NodeGraceOver,
    NodesCancelRequested,
    Opened,
    PriorityRequested,
    RerunRequested,
    RetryRequested,
    SkipRequested,
    Timer,
)
from scheduler.core.evolve import evolve
from scheduler.core.node_verbs import following
from scheduler.core.states import MoveKind, NodeState, RunState
from scheduler.core.verbs import GRACE_MS
from scheduler.graph import Graph
from tests.unit.core.played import Played

ANN = Asker("too dear", "ann", 7)


def chain(*keys: str, **options: Any) -> Played:
    """Nodes one after the other; the first is out."""
    graph = Graph("chain", **options)
    before: Any = ()
    for key in keys:
        before = graph.add("echo", key=key, after=before)
    return Played(graph)


def fork(rule: str = "all_success") -> Played:
    """A and b at once, c after both; d after a alone."""
    graph = Graph("fork", retry=1)
    a, b = graph.add("echo", key="a"), graph.add("echo", key="b")
    graph.add("echo", key="c", after=[a, b], trigger_rule=rule)
    graph.add("echo", key="d", after=a)
    return Played(graph)


def stands(run: Played) -> RunState:
    """The state of the run."""
    return run.run.run_state


def cancel(run: Played, *keys: str, running: tuple[str, ...] = (), at_once: bool = False, by: Asker = ANN) -> Decision:
    """Ask for nodes to be cancelled, some of which a worker has claimed."""
    numbers, claimed = (tuple(map(run.number, it)) for it in (keys, running))
    return run.happen(NodesCancelRequested(numbers, frozenset(claimed), by, at_once))


def complete(run: Played, key: str, output: Any = 1, by: Asker = ANN) -> Decision:
    """Give a node's output by hand, and let the run go on with it, as the next turn does."""
    decision = run.happen(CompleteRequested(run.number(key), json.dumps(output).encode(), by))
    run.happen(Opened())
    return decision


def rerun(run: Played, *keys: str, by: Asker = ANN) -> Decision:
    """Run again from nodes, and let the run go on, as the next turn does."""
    decision = run.happen(RerunRequested(tuple(map(run.number, keys)), by))
    run.happen(Opened())
    return decision


def refusal(decision: Decision) -> str:
    """Why a request was refused; it changes nothing else."""
    assert decision.told is not None
    word, number, why = decision.told
    assert (word, number) == ("refused", 7)
    assert decision == Decision(told=decision.told)
    return why


# --- cancel ---------------------------------------------------------------------------------------------------


def test_a_cancelled_node_counts_as_upstream_failed_and_the_run_goes_on() -> None:
    """WCP 19: what waits for it follows its rule, the rest is not concerned, and the run ends by its last nodes."""
    run = fork()
    decision = cancel(run, "b")
    assert run.states() == {"a": "dispatched", "b": "cancelled", "c": "upstream_failed", "d": "pending"}
    assert run.why("b") == "cancelled by ann: too dear"
    assert run.values["b"]["message"] == "cancelled by ann: too dear"
    assert decision.told == ("cancel", 7, "cancel by ann: too dear (node 'b')")
    run.ends("a")
    run.ends("d")
    assert stands(run) is RunState.FAILED


def test_a_rule_that_lets_it_starts_the_node_behind_a_cancelled_one() -> None:
    """`all_done` does not mind, and the run succeeds."""
    run = fork("all_done")
    cancel(run, "b")
    run.ends("a")
    run.ends("d")
    run.ends("c")
    assert stands(run) is RunState.SUCCEEDED


def test_a_region_is_cancelled_whole_with_nodes_that_follow_each_other() -> None:
    """WCP 25: each of its nodes moves once, those behind it follow their rules, and what has ended stays."""
    run = chain("a", "b", "c", "d")
    run.ends("a")
    numbers = tuple(map(run.number, ("a", "b", "c")))
    decision = run.happen(NodesCancelRequested(numbers, frozenset(), ANN, region="prices"))
    assert run.states() == {"a": "succeeded", "b": "cancelled", "c": "cancelled", "d": "upstream_failed"}
    assert decision.act is not None
    assert (decision.act.nodes, decision.act.what) == (2, "region prices: node 'b', 'c'")
    assert stands(run) is RunState.FAILED


def test_what_runs_gets_a_grace_and_may_succeed_in_it() -> None:
    """The timer is set with the request and goes with the node's end."""
    run = chain("a", "b")
    decision = cancel(run, "a", running=("a",))
    assert decision.timers == [Timer("leave:0:1", run.now + GRACE_MS)]
    assert run.state("a") == "dispatched"
    assert run.ends("a").cancelled == ["leave:0:1"]
    assert run.state("b") == "dispatched"
    assert not run.run.leaving


@pytest.mark.parametrize("how", ["fails", "grace"])
def test_what_fails_in_its_grace_or_outlives_it_is_cancelled_and_not_tried_again(how: str) -> None:
    """Whoever owns the run by then: why it is being cancelled stands in its record."""
    run = chain("a", "b")
    cancel(run, "a", running=("a",))
    assert run.happen(Opened()).timers[-1].name == "leave:0:1"  # a new owner gives the grace once more
    run.fails("a", "transient") if how == "fails" else run.happen(NodeGraceOver(0, 1))
    assert run.states() == {"a": "cancelled", "b": "upstream_failed"}
    assert run.why("a") == "cancelled by ann: too dear"
    assert stands(run) is RunState.FAILED


def test_at_once_gives_no_grace() -> None:
    """Also to what has one already."""
    run = chain("a", "b")
    cancel(run, "a", running=("a",))
    decision = cancel(run, "a", running=("a",), at_once=True, by=Asker("now", "bob", 8))
    assert "leave:0:1" in decision.cancelled
    assert run.why("a") == "cancelled by bob: now"


def test_a_wait_between_two_tries_ends_with_the_node() -> None:
    """Its timer goes too."""
    run = chain("a")
    run.fails("a", "transient")
    assert "retry:0:1" in cancel(run, "a").cancelled


def test_a_cancel_of_what_has_ended_is_refused() -> None:
    """And a list of which only some can be cancelled says which were not."""
    run = chain("a", "b")
    run.ends("a")
    assert "have ended already" in refusal(cancel(run, "a"))
    decision = cancel(run, "a", "b")
    assert decision.told is not None
    assert "not node 'a', for that has ended" in decision.told[2]


def test_a_run_with_a_cancelled_node_is_not_taken_for_one_that_was_being_cancelled() -> None:
    """A crash that kept the end of a run's cancel from the record is told apart from it by the mark in the record."""
    run = chain("a", "b")
    cancel(run, "b")
    run.ends("a")
    assert stands(run) is RunState.FAILED
    again = chain("a", "b")
    again.run.state[1] = NodeState.CANCELLED
    again.run.by_state = [again.run.state.count(state) for state in range(len(NodeState))]
    again.run.open = again.run.bad = 1
    again.ends("a")
    assert stands(again) is RunState.RUNNING


# --- skip -----------------------------------------------------------------------------------------------------


def test_a_skipped_node_is_followed_by_its_rules() -> None:
    """It counts as skipped, which is no failure."""
    run = chain("a", "b", "c")
    decision = run.happen(SkipRequested(run.number("b"), ANN))
    assert run.states() == {"a": "dispatched", "b": "skipped", "c": "skipped"}
    assert decision.told is not None
    assert decision.told[0] == "skip"
    run.ends("a")
    assert stands(run) is RunState.SUCCEEDED


def test_what_is_out_or_over_cannot_be_skipped() -> None:
    """Whoever asks is told why."""
    run = chain("a", "b")
    assert "has been sent" in refusal(run.happen(SkipRequested(0, ANN)))
    run.ends("a")
    assert "is succeeded already" in refusal(run.happen(SkipRequested(0, ANN)))


# --- complete -------------------------------------------------------------------------------------------------


def test_an_open_node_is_completed_by_hand_and_its_attempt_is_fenced_off() -> None:
    """It has succeeded with that output; what its worker says afterwards is stale."""
    run = chain("a", "b")
    late = run._report("a", "succeeded", None, None)
    decision = complete(run, "a", {"rows": 7})
    assert decision.outputs == {0: b'{"rows": 7}'}
    assert run.states() == {"a": "succeeded", "b": "dispatched"}
    assert run.happen(late).stale
    [only] = run.run.tries(0)
    assert (only.end, only.worker) == ("completed", "ann")


@pytest.mark.parametrize("key", ["b", "c"])
def test_a_pending_node_that_is_completed_has_an_attempt_of_its_own(key: str) -> None:
    """The person's attempt is numbered like any other."""
    run = chain("a", "b", "c")
    complete(run, key)
    assert run.state(key) == "succeeded"
    assert [(it.attempt, it.end) for it in run.run.tries(run.number(key))] == [(1, "completed")]


def test_a_node_that_waits_for_its_next_try_is_completed_instead() -> None:
    """The failed attempt stays in its timeline."""
    run = chain("a", "b")
    run.fails("a", "transient")
    assert "retry:0:1" in complete(run, "a").cancelled
    assert [(it.attempt, it.end) for it in run.run.tries(0)] == [(1, "failed"), (2, "completed")]


@pytest.mark.parametrize("ended", [False, True], ids=["the run goes on", "the run has ended"])
def test_a_failed_node_is_completed_and_what_follows_runs_anew(ended: bool) -> None:
    """Nodes behind it begin a new epoch, whether their run has ended or not; the rest stays as it is."""
    run = fork()
    run.fails("a")
    if ended:
        run.ends("b")
        assert stands(run) is RunState.FAILED
    complete(run, "a", 3)
    assert stands(run) is RunState.RUNNING
    assert run.state("d") == "dispatched"
    if not ended:
        run.ends("b")
    run.ends("c")
    run.ends("d")
    assert stands(run) is RunState.SUCCEEDED
    assert [run.run.epoch[run.number(key)] for key in "abcd"] == [2, 1, 2, 2]


def test_a_failed_last_node_that_is_completed_ends_the_run_well() -> None:
    """Nothing is left to run: the next turn ends it."""
    run = chain("a")
    run.fails("a")
    complete(run, "a")
    assert stands(run) is RunState.SUCCEEDED


def test_what_succeeded_or_was_skipped_cannot_be_completed() -> None:
    """A re-run is what that wants."""
    run = chain("a", "b", "c")
    run.ends("a")
    run.happen(SkipRequested(run.number("c"), Asker("", "", 1)))
    for key, word in (("a", "succeeded"), ("c", "skipped")):
        number = run.number(key)
        assert f"is {word}" in refusal(run.happen(CompleteRequested(number, b"1", ANN)))


def test_a_choice_is_completed_by_naming_a_branch() -> None:
    """A person overrides a decision; what hangs on the other branches is skipped."""
    graph = Graph("routes", retry=1)
    score = graph.add("score", key="score")
    route = graph.choice("route", {"good": score.out.value >= 1}, otherwise="poor")
    graph.add("echo", key="yes", after=route["good"])
    graph.add("echo", key="no", after=route["poor"])
    run = Played(graph)
    number = run.number("route")
    assert "one of good, poor" in refusal(run.happen(CompleteRequested(number, b'{"branch":"odd"}', ANN)))
    complete(run, "route", {"branch": "poor"})
    assert (run.state("yes"), run.state("no")) == ("skipped", "dispatched")


# --- run again ------------------------------------------------------------------------------------------------


def test_a_rerun_opens_a_node_and_all_that_follows_it() -> None:
    """In an ended run; what does not follow from it stays. The preview and the deed are one function."""
    run = fork()
    for key in "abcd":
        run.ends(key)
    assert stands(run) is RunState.SUCCEEDED
    plan = [run.run.keys[node] for node in following(run.run, [run.number("b")])]
    assert plan == ["b", "c"]
    decision = rerun(run, "b")
    assert [run.run.keys[it.node] for it in decision.moves] == plan
    assert run.states() == {"a": "succeeded", "b": "dispatched", "c": "pending", "d": "succeeded"}
    run.ends("b")
    run.ends("c")
    assert stands(run) is RunState.SUCCEEDED
    assert [(it.attempt, it.end) for it in run.run.tries(run.number("c"))] == [(1, "succeeded"), (2, "succeeded")]


def test_a_rerun_in_a_running_run_fences_what_is_out_behind_the_node() -> None:
    """What began on the old output does not count; what is pending only waits."""
    run = chain("a", "b", "c")
    run.ends("a")
    late = run._report("b", "succeeded", None, None)
    decision = rerun(run, "a")
    assert [(it.node, it.kind) for it in decision.moves] == [(0, MoveKind.REOPEN), (1, MoveKind.REOPEN)]
    assert run.states() == {"a": "dispatched", "b": "pending", "c": "pending"}
    assert run.happen(late).stale
    assert [it.end for it in run.run.tries(1)] == ["cancelled"]


def test_the_same_rerun_twice_is_one() -> None:
    """By its number, whatever has come of it meanwhile."""
    run = chain("a", "b")
    run.ends("a")
    rerun(run, "a")
    run.ends("a")
    assert rerun(run, "a").moves == []
    run.ends("b")
    assert stands(run) is RunState.SUCCEEDED


def test_a_rerun_of_what_has_not_ended_is_refused() -> None:
    """It runs anyway."""
    run = chain("a", "b")
    assert "it runs anyway" in refusal(run.happen(RerunRequested((0, 1), ANN)))


def test_a_rerun_that_was_broken_off_goes_on_from_what_is_recorded() -> None:
    """Some nodes are open again in the record, and the run is not: the request comes again."""
    run = chain("a", "b", "c")
    for key in "abc":
        run.ends(key)
    whole = run.happen(RerunRequested((0,), ANN))
    part = chain("a", "b", "c")
    for key in "abc":
        part.ends(key)
    first = Decision(whole.moves[:2])
    evolve(part.run, first, part.now)  # what a commit that was cut has left
    again = part.happen(RerunRequested((0,), ANN))
    assert [it.node for it in again.moves] == [2]
    assert again.run is RunState.RUNNING


def test_a_rerun_in_a_cancelled_run_leaves_the_rest_cancelled_and_the_run_can_end() -> None:
    """What was cancelled with the run and is not run again is marked as such, so nobody waits for the cancel."""
    run = fork()
    run.ends("a")
    run.happen(CancelRequested("enough", frozenset()))
    assert stands(run) is RunState.CANCELLED
    rerun(run, "d")
    assert run.states() == {"a": "succeeded", "b": "cancelled", "c": "cancelled", "d": "dispatched"}
    run.ends("d")
    assert stands(run) is RunState.FAILED
    run.happen(RetryRequested("all of it"))
    run.happen(Opened())
    for key in "bc":
        run.ends(key)
    assert stands(run) is RunState.SUCCEEDED


# --- deadline, priority, and what all have in common ----------------------------------------------------------


def test_a_deadline_is_set_and_taken_away() -> None:
    """What was set for one that was taken away decides nothing."""
    run = chain("a")
    decision = run.happen(DeadlineRequested(run.now + 60_000, ANN))
    assert decision.timers == [Timer("deadline", run.now + 60_000 - 1)]
    decision = run.happen(DeadlineRequested(None, Asker("", "", 8)))
    assert decision.cancelled == ["deadline"]
    assert run.happen(DeadlinePassed()).stale
    run.happen(DeadlineRequested(run.now, Asker("", "", 9)))
    assert run.happen(DeadlinePassed()).run is RunState.FAILED


def test_a_priority_is_kept_within_its_limits() -> None:
    """-9 to 9."""
    run = chain("a")
    run.happen(PriorityRequested(5, ANN))
    assert run.run.priority == 5
    assert "between -9 and 9" in str(run.happen(PriorityRequested(10, Asker("", "", 8))).told)
    assert run.run.priority == 5


def test_the_same_request_again_changes_nothing_and_is_answered() -> None:
    """A request has a number; whoever waits for the answer finds it in the log."""
    run = chain("a", "b")
    cancel(run, "b")
    again = cancel(run, "b")
    assert again == Decision(told=again.told)
    assert again.told is not None
    assert again.told[:2] == ("cancel", 7)


def test_every_verb_is_kept_with_who_and_why() -> None:
    """The newest fifty, as the run's record shows them."""
    run = chain("a", "b", "c")
    run.happen(SkipRequested(2, ANN))
    [act] = run.run.acts
    assert (act.verb, act.by, act.reason, act.number, act.nodes, act.what) == (
        "skip",
        "ann",
        "too dear",
        7,
        1,
        "node 'c'",
    )
    for number in range(100, 160):
        run.happen(PriorityRequested(1, Asker("", "", number)))
    assert [it.number for it in run.run.acts] == list(range(110, 160))


def test_a_run_that_is_being_cancelled_takes_no_requests_for_its_nodes() -> None:
    """They are refused in words."""
    run = fork()
    run.happen(CancelRequested("enough", frozenset({0})))
    for event in (
        NodesCancelRequested((0,), frozenset(), ANN),
        SkipRequested(0, ANN),
        CompleteRequested(0, b"1", ANN),
        RerunRequested((0,), ANN),
        DeadlineRequested(None, ANN),
        PriorityRequested(1, ANN),
    ):
        assert "the run is cancelling" in refusal(run.happen(event))
