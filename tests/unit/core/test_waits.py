"""Waiting without a worker, played through the core: timers, signals, approvals, jobs outside; limits of time."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scheduler.core.decide import decide
from scheduler.core.events import (
    STALE,
    Answered,
    Completed,
    Escalated,
    LeaseExpired,
    Opened,
    Signalled,
    StartLimitPassed,
    TotalLimitPassed,
    WaitOver,
)
from scheduler.core.run import Run
from scheduler.core.states import NodeState, RunState
from scheduler.core.waits import MOST_SIGNALS, Signal
from scheduler.graph import Graph, Retry, Timing, again, escalate
from tests.unit.core.played import RUN, T0, Played


def signal(name: str, payload: Any = None, key: str = "", id_: str = "1-0.0") -> Signalled:
    """A signal from ann."""
    return Signalled(id_, name, key, "ann", json.dumps(payload).encode())


def answer(node: int, choice: str, by: str = "ann", epoch: int = 1) -> Answered:
    """An answer of one word."""
    return Answered(node, epoch, "a1", choice, b"null", by, "", T0 + 9)


# -- timers and delays ----------------------------------------------------------------------------------


def test_a_timer_holds_what_follows_until_its_instant() -> None:
    """Its timer is set for then; early timers and those of another epoch change nothing; it fires once."""
    g = Graph("g")
    g.add("x", key="after", after=g.timer("nap", "90d"))
    play = Played(g)
    assert play.states() == {"nap": "waiting", "after": "pending"}
    [timer] = play.timers.items()
    assert timer == ("wait:0:1", T0 + 1 + 90 * 86_400_000)

    assert decide(play.run, WaitOver(0, 2, 0.5), play.now) is STALE
    play.happen(WaitOver(0, 1, 0.5))
    assert play.states() == {"nap": "succeeded", "after": "dispatched"}
    assert play.values["nap"] == {"due_ms": timer[1]}
    assert decide(play.run, WaitOver(0, 1, 0.5), play.now) is STALE


def test_a_timer_waits_for_the_later_of_a_span_and_an_instant() -> None:
    """`until` in the past leaves the span, one in the future outlasts it."""
    g = Graph("g")
    g.timer("past", "10s", until="2001-01-01T00:00:00+00:00")
    g.timer("future", "10s", until="2100-01-01T01:00:00+01:00")
    play = Played(g)
    assert play.timers == {"wait:0:1": T0 + 1 + 10_000, "wait:1:1": 4_102_444_800_000}


def test_delayed_work_is_ready_when_its_delay_is_over() -> None:
    """It has no attempt before, and its first attempt has the number 1."""
    g = Graph("g")
    g.add("x", key="a", timing=Timing(delay="10m"))
    play = Played(g)
    assert (play.state("a"), play.run.attempt[0]) == ("waiting", 0)
    play.happen(WaitOver(0, 1, 0.5))
    assert (play.state("a"), play.run.attempt[0]) == ("dispatched", 1)
    play.ends("a")
    assert play.run.run_state is RunState.SUCCEEDED


def test_what_never_runs_is_not_waited_for() -> None:
    """A guard that is false skips a wait, and an upstream that failed passes it over; no timer is set."""
    g = Graph("g")
    a = g.add("x", key="a", retry=1)
    g.timer("skipped", "1h", when=a.state == "succeeded", trigger_rule="all_done", after=a)
    g.timer("passed over", "1h", after=a)
    play = Played(g)
    play.fails("a")
    assert play.states() == {"a": "failed", "skipped": "skipped", "passed over": "upstream_failed"}
    assert play.timers == {}


# -- signals --------------------------------------------------------------------------------------------


def waiting_for_signals(**how: Any) -> Graph:
    """go, two at once, waits for "paid"; so does a node after it."""
    g = Graph("g")
    first = g.signal("first", name="paid", **how)
    g.signal("second", name="paid", after=first, **how)
    return g


def test_one_signal_ends_one_wait_and_its_payload_is_the_output() -> None:
    """The second wait needs a second signal."""
    play = Played(waiting_for_signals())
    play.happen(signal("paid", {"sum": 7}))
    assert play.states() == {"first": "succeeded", "second": "waiting"}
    assert play.values["first"] == {"sum": 7}
    play.happen(signal("paid", {"sum": 8}, id_="2-0.0"))
    assert play.run.run_state is RunState.SUCCEEDED


def test_a_signal_that_comes_early_is_kept_for_who_will_wait() -> None:
    """Two at once: the first ends the wait, the second is taken when the next node comes to wait."""
    g = Graph("g")
    a = g.add("x", key="a")
    first = g.signal("first", name="paid", after=a)
    g.signal("second", name="paid", after=first)
    play = Played(g)
    play.happen(signal("paid", 1))
    play.happen(signal("paid", 2, id_="2-0.0"))
    play.ends("a")
    assert play.run.run_state is RunState.SUCCEEDED
    assert (play.values["first"], play.values["second"]) == (1, 2)


def test_a_transient_signal_is_lost_when_nobody_waits() -> None:
    """The log says so, and the next one counts."""
    g = Graph("g")
    g.signal("paid", transient=True, after=g.add("x", key="a"))
    play = Played(g)
    assert play.happen(signal("paid")).notes[0].word == "ignored"
    play.ends("a")
    assert play.state("paid") == "waiting"
    play.happen(signal("paid", id_="2-0.0"))
    assert play.state("paid") == "succeeded"


def test_a_signal_counts_once_however_often_it_comes() -> None:
    """The same entry again, and another one of the same key, change nothing; one of another key does."""
    play = Played(waiting_for_signals())
    play.happen(signal("paid", 1, key="p-1"))
    assert decide(play.run, signal("paid", 1, key="p-1"), play.now) is STALE
    assert play.happen(signal("paid", 1, key="p-1", id_="2-0.0")).notes[0].word == "ignored"
    assert play.state("second") == "waiting"
    play.happen(signal("paid", 2, key="p-2", id_="3-0.0"))
    assert play.state("second") == "succeeded"


def test_a_run_takes_only_so_many_signals_and_none_that_nobody_will_wait_for() -> None:
    """Both are refused in the log, and kept nowhere."""
    g = waiting_for_signals()
    play = Played(g)
    assert play.happen(signal("piad")).notes[0].why.endswith("no node waits for such a signal")
    for number in range(MOST_SIGNALS):
        play.run.signals[f"{number}-1.0"] = Signal(f"{number}-1.0", "other", "", "", b"1")
    assert "has had" in play.happen(signal("paid")).notes[0].why


def test_a_signal_is_not_lost_between_its_note_and_the_record_of_the_wait_that_it_ended() -> None:
    """A crash came after the signal was noted as taken: a new owner finds the node waiting, and ends its wait."""
    play = Played(waiting_for_signals())
    before = {node: play.run.record(node).encode() for node in range(2) if play.run.state[node]}
    play.happen(signal("paid", 7))
    noted = list(play.run.signals.values())
    assert noted[0].taken == (0, 1)

    again = Run.load(RUN, play.header, play.pages, before.items(), created_at_ms=T0)
    again.take_signals(noted)
    decision = decide(again, Opened(), play.now)
    assert [move.node for move in decision.moves] == [0, 1]
    assert decision.outputs[0] == b"7"
    assert decide(again, signal("paid", 7), play.now).moves[0].node == 0  # or by the entry, should it come first


def test_a_signal_that_does_not_come_in_time_fails_its_node_or_leaves_the_default() -> None:
    """A default is the output then; without one the node fails by a timeout whose origin is the policy."""
    g = Graph("g")
    g.signal("optional", within="1h", default={"sum": 0})
    g.signal("needed", within="1h")
    play = Played(g)
    play.happen(WaitOver(0, 1, 0.5))
    play.happen(WaitOver(1, 1, 0.5))
    assert play.states() == {"optional": "succeeded", "needed": "failed"}
    assert play.values["optional"] == {"sum": 0}
    assert play.values["needed"] | {"message": ""} == {
        "kind": "timeout",
        "type": "SignalTimeout",
        "message": "",
        "origin": "policy",
        "phase": "wait",
        "correlation_id": RUN,
    }


# -- approvals ------------------------------------------------------------------------------------------


def test_an_answer_ends_an_approval_once() -> None:
    """Its output says what was chosen, by whom and when; a second answer is refused, and the log says so."""
    g = Graph("g")
    review = g.approval("review", "Publish?", choices=["yes", "no"])
    g.add("x", key="publish", when=review.out.choice == "yes")
    play = Played(g)
    play.happen(answer(0, "yes"))
    assert play.states() == {"review": "succeeded", "publish": "dispatched"}
    assert play.values["review"] == {"choice": "yes", "by": "ann", "comment": "", "answer": None, "at_ms": T0 + 9}
    [note] = play.happen(answer(0, "no")).notes
    assert (note.node, note.word) == (0, "refused")
    assert "the node is succeeded in epoch 1" in note.why


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (answer(0, "perhaps"), "is none of yes, no"),
        (answer(0, "yes", by="bob"), "may not answer this"),
        (answer(0, "yes", epoch=2), "nothing is asked"),
        (answer(1, "yes"), "nothing is asked"),
    ],
)
def test_an_answer_that_cannot_be_is_refused_and_changes_nothing(asked: Answered, why: str) -> None:
    """No such choice, not this person, another epoch, no such question."""
    g = Graph("g")
    g.approval("review", "Publish?", choices=["yes", "no"], who=["ann"])
    g.add("x", key="other")
    play = Played(g)
    decision = play.happen(asked)
    assert decision.moves == []
    assert why in decision.notes[0].why
    assert play.state("review") == "waiting"


def test_others_may_answer_once_it_was_escalated() -> None:
    """Before, boss may not; from the instant of the escalation on, boss may, and so may ann still."""
    g = Graph("g")
    g.approval("review", "Publish?", who=["ann"], escalate=[("1h", ["boss"])])
    play = Played(g)
    assert play.timers == {"escalate:0:1:0": T0 + 1 + 3_600_000}
    assert "may not answer" in play.happen(answer(0, "approve", by="boss")).notes[0].why
    play.now += 3_600_000
    assert play.happen(Escalated(0, 1, 0)).notes[0].why == "nobody has answered; boss may answer now"
    play.happen(answer(0, "approve", by="boss"))
    assert play.state("review") == "succeeded"
    assert decide(play.run, Escalated(0, 1, 0), play.now) is STALE


def test_nobody_answers_in_time() -> None:
    """The default is chosen, by nobody."""
    g = Graph("g")
    g.approval("review", "Publish?", within="2d", default="reject")
    play = Played(g)
    play.happen(WaitOver(0, 1, 0.5))
    assert (play.values["review"]["choice"], play.values["review"]["by"]) == ("reject", "")
    assert "the default stands for it" in play.why("review")


def asking(**how: Any) -> Played:
    """A node that is tried twice, and then somebody is asked."""
    g = Graph("g")
    steps = [again(2, base_seconds=0.001), escalate("It fails. Go on?", ["ops"])]
    g.add("x", key="next", after=g.add("x", key="a", retry=Retry(steps=steps), **how))
    return Played(g)


def test_a_ladder_that_ends_at_a_person_waits_for_that_person() -> None:
    """Its question is asked once its tries are used up; "retry" gives it one more, after which it asks again."""
    play = asking()
    play.fails("a", "transient")
    play.wakes("a")
    play.fails("a", "transient")
    assert (play.state("a"), play.run.failures[0], play.timers) == ("waiting", 2, {})
    assert "a person is asked: It fails. Go on?" in play.why("a")
    assert "may not answer" in play.happen(answer(0, "retry", by="eve")).notes[0].why
    assert "is none of retry, fail" in play.happen(answer(0, "approve", by="ops")).notes[0].why

    play.happen(answer(0, "retry", by="ops"))
    assert (play.state("a"), play.run.attempt[0]) == ("dispatched", 3)
    play.fails("a", "transient")
    assert play.state("a") == "waiting"
    play.happen(answer(0, "retry", by="ops"))
    play.ends("a")
    assert play.states() == {"a": "succeeded", "next": "dispatched"}
    assert [it.end for it in play.run.tries(0)] == ["failed", "failed", "failed", "succeeded"]


def test_a_person_may_give_a_node_up() -> None:
    """It has failed then, and says by whom; what follows asks its rules."""
    play = asking()
    play.fails("a", "permanent")
    assert play.state("a") == "waiting"
    play.happen(answer(0, "fail", by="ops"))
    assert play.states() == {"a": "failed", "next": "upstream_failed"}
    assert (play.values["a"]["type"], play.values["a"]["origin"]) == ("GivenUp", "external")
    assert play.run.run_state is RunState.FAILED


def test_what_a_person_is_asked_about_can_be_out_of_time() -> None:
    """The limit of all tries together counts while somebody thinks."""
    play = asking(timing=Timing(total_timeout="1m"))
    play.fails("a", "permanent")
    play.happen(TotalLimitPassed(0, 1))
    assert play.state("a") == "failed"
    assert play.timers == {}


# -- jobs that somebody outside ends --------------------------------------------------------------------


def job(**how: Any) -> Played:
    """A job that its worker only begins, and one after it."""
    g = Graph("g")
    render = g.add("farm.submit", key="render", timing=Timing(outside=how.pop("within", True)), **how)
    g.add("x", key="next", page=render.out.page)
    return Played(g)


def completed(play: Played, output: Any = None, error: dict[str, Any] | None = None, attempt: int = 1) -> Completed:
    """The farm tells of its job."""
    return Completed(0, 1, attempt, play.now, json.dumps(output).encode(), error, 0.5, None)


def test_a_job_waits_for_its_end_from_outside() -> None:
    """What its worker returned is not its output; the output comes from outside, once."""
    play = job(within="2h")
    play.ends("render", {"ticket": 1})
    assert play.state("render") == "waiting"
    assert play.timers == {"wait:0:1": play.now + 7_200_000}
    assert decide(play.run, completed(play, attempt=2), play.now) is STALE

    play.happen(completed(play, {"page": 3}))
    assert play.states() == {"render": "succeeded", "next": "dispatched"}
    assert json.loads(play.run.outputs[0]) == {"page": 3}
    assert decide(play.run, completed(play, {"page": 4}), play.now) is STALE
    assert play.timers == {}
    [only] = play.run.tries(0)
    assert (only.end, only.worker, only.attempt) == ("succeeded", "w", 1)


def test_a_job_may_end_before_its_worker_has_told_that_it_is_begun() -> None:
    """The worker's report comes late then, and changes nothing."""
    play = job()
    node = play._report("render", "succeeded", None, None)
    play.happen(completed(play, {"page": 3}))
    assert play.state("render") == "succeeded"
    assert decide(play.run, node, play.now) is STALE


def test_a_job_that_fails_or_does_not_end_is_begun_again_by_the_retry_policy() -> None:
    """An error from outside and a timeout both wait for the next try; the last one fails the node."""
    play = job(within="1h", retry=Retry(3))
    play.ends("render")
    play.happen(
        completed(play, error={"kind": "transient", "type": "FarmBusy", "message": "busy", "origin": "external"})
    )
    assert (play.state("render"), play.run.failures[0]) == ("waiting", 1)
    assert decide(play.run, WaitOver(0, 1, 0.5), play.now) is STALE  # it waits for its next try, not for the farm
    play.wakes("render")
    play.ends("render")
    play.happen(WaitOver(0, 1, 0.5))
    assert (play.state("render"), play.run.failures[0]) == ("waiting", 2)
    play.wakes("render")
    play.ends("render")
    play.happen(WaitOver(0, 1, 0.5))
    assert play.state("render") == "failed"
    assert (play.values["render"]["type"], play.values["render"]["origin"]) == ("JobTimeout", "external")
    assert [it.end for it in play.run.tries(0)] == ["failed"] * 3


def test_only_jobs_are_ended_from_outside() -> None:
    """The end of an ordinary attempt is its worker's to tell."""
    g = Graph("g")
    g.add("x", key="a")
    play = Played(g)
    assert decide(play.run, completed(play), play.now) is STALE


def test_delayed_jobs_wait_twice() -> None:
    """First for their instant, then for somebody outside."""
    g = Graph("g")
    g.add("x", key="a", timing=Timing(delay="1m", outside="1h"))
    play = Played(g)
    assert play.timers == {"wait:0:1": T0 + 1 + 60_000}
    play.happen(WaitOver(0, 1, 0.5))
    play.ends("a")
    assert play.state("a") == "waiting"
    play.happen(completed(play, 1))
    assert play.run.run_state is RunState.SUCCEEDED


# -- limits of time -------------------------------------------------------------------------------------


def test_a_node_that_nobody_begins_in_time_fails() -> None:
    """Its attempt is out and unclaimed; once a worker has claimed it the limit is over."""
    g = Graph("g")
    g.add("x", key="a", timing=Timing(start_timeout="5s"))
    play = Played(g)
    assert play.timers == {"start:0:1": T0 + 1 + 5_000}
    assert decide(play.run, StartLimitPassed(0, 1, begun=True), play.now) is STALE
    play.happen(StartLimitPassed(0, 1, begun=False))
    assert play.state("a") == "failed"
    assert play.values["a"]["type"] == "StartTimeout"


def test_all_attempts_together_have_a_limit() -> None:
    """It fails a node that runs, one that waits for its next try, and one that is ready; an ended one it does not."""
    for tries in range(3):
        g = Graph("g")
        g.add("x", key="a", timing=Timing(total_timeout="1m"), retry=Retry(9))
        play = Played(g)
        assert play.timers == {"total:0:1": T0 + 1 + 60_000}
        if tries:
            play.fails("a", "transient")
        if tries == 2:
            play.wakes("a")
        play.happen(TotalLimitPassed(0, 1))
        assert play.state("a") == "failed"
        assert play.values["a"]["type"] == "TotalTimeout"
        assert play.timers == {}
        assert decide(play.run, TotalLimitPassed(0, 1), play.now) is STALE
        assert play.run.run_state is RunState.FAILED


def test_an_executor_that_says_nothing_is_told_from_one_that_takes_too_long() -> None:
    """Both are timeouts of the executor, and both are tried again."""
    for silent, name in ((True, "Silent"), (False, "TimeLimitExceeded")):
        g = Graph("g")
        g.add("x", key="a", timing=Timing(silence="30s"), retry=1)
        play = Played(g)
        assert play.timers == {}
        play.happen(LeaseExpired(0, 1, 1, play.now, "w", True, 0.5, silent))
        error = play.values["a"]
        assert (error["kind"], error["type"], error["origin"]) == ("timeout", name, "executor")
        assert ("no heartbeat for 30 s" in error["message"]) is silent


def test_a_limit_begins_anew_with_each_try_for_its_start_and_never_for_all_of_them() -> None:
    """A lost attempt sets the timer of the start again, under the same name, and leaves the other."""
    g = Graph("g")
    g.add("x", key="a", timing=Timing(start_timeout="5s", total_timeout="1m"))
    play = Played(g)
    play.now += 1_000
    play.happen(LeaseExpired(0, 1, 1, play.now, "w", False, 0.5))
    assert play.timers == {"start:0:1": play.now - 1 + 5_000, "total:0:1": T0 + 1 + 60_000}


def test_timers_go_with_the_node() -> None:
    """Success, failure, cancel and stop leave no timer behind."""
    g = Graph("g")
    g.add("x", key="a", timing=Timing(start_timeout="5s", total_timeout="1m"))
    g.signal("s", within="1h")
    g.approval("q", "?", within="1h", escalate=[("1m", ["b"])])
    stopped = Graph("g")
    stopped.add("x", key="a")
    stopped.signal("s", within="1h")
    stopped.stop_when("a.output == 1")
    play = Played(g)
    assert set(play.timers) == {"start:0:1", "total:0:1", "wait:1:1", "wait:2:1", "escalate:2:1:0"}
    play.ends("a")
    play.happen(signal("s"))
    play.happen(answer(2, "approve"))
    assert play.timers == {}
    play = Played(stopped)
    play.ends("a", 1)
    assert (play.state("s"), play.timers) == ("skipped", {})


def test_a_parked_node_is_loaded_as_it_was() -> None:
    """Since when it waits is in its record, and it is no attempt."""
    g = Graph("g")
    g.signal("s")
    play = Played(g)
    assert play.run.record(0) == "W|1|0|0|0|1,,,,parked,|"
    play.happen(signal("s", 1))
    assert play.run.record(0) == "S|1|0|0|0|1,,,1,parked,|i"
    assert list(play.run.tries(0)) == []
    assert NodeState(play.run.state[0]) is NodeState.SUCCEEDED
