"""simulate: what a graph does, without workers, Redis and time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from scheduler import (
    CeleriacError,
    Graph,
    InvalidValue,
    NotJson,
    RateLimited,
    Retry,
    Secret,
    Timing,
    UnknownNode,
    again,
    capability,
    changed,
    escalate,
    other,
)
from scheduler.testing import (
    HANGS,
    UNCLAIMED,
    Answer,
    Call,
    Fails,
    Returns,
    Signal,
    Stuck,
    Takes,
    Unscripted,
    simulate,
)
from scheduler.worker import attempt, executor


class Sum(BaseModel):
    """What an executor gives."""

    total: int


def scored() -> Graph:
    """A score, and what is done with it."""
    g = Graph("scored")
    score = g.add("judge.score", key="score", text="hello")
    publish = g.add("cms.publish", key="publish", value=score.out.value, when=score.out.value >= 0.8)
    g.add("mail.send", key="mail", whole=score, error=publish.error, after=publish, trigger_rule="all_done")
    g.returns(publish)
    return g


def words(played: Any, node: str) -> list[str]:
    """The moves of a node, in order."""
    return [it.word for it in played.log if it.node == node]


# --- outcomes -------------------------------------------------------------------------------------------------


def test_a_run_goes_as_its_outcomes_say() -> None:
    """State and result of the run; states, attempts, outputs and inputs of its nodes; the log with the reasons."""
    played = simulate(scored(), {"score": {"value": 0.9}, "publish": "page 7", "mail": None})
    assert (played.state, played.why) == ("succeeded", "every last node succeeded or was skipped")
    assert played.states == dict.fromkeys(("score", "publish", "mail"), "succeeded")
    assert played.attempts == {"score": 1, "publish": 1, "mail": 1}
    assert played.outputs == {"score": {"value": 0.9}, "publish": "page 7", "mail": None}
    assert played.result == "page 7"
    assert played.calls["publish"][0].kwargs == {"value": 0.9}
    assert played.calls["mail"][0].kwargs == {"whole": {"value": 0.9}, "error": None}
    assert words(played, "publish") == ["ready", "dispatch", "succeed"]
    assert played.why_of("publish").endswith("when: score.output.value >= 0.8 is true (score.output.value = 0.9)")
    assert (played.seconds, played.errors, played.unused) == (0.0, {}, ())


def test_a_guard_is_decided_by_the_core() -> None:
    """The node is skipped, its outcome not needed, and the log says what was met."""
    played = simulate(scored(), {"score": {"value": 0.1}, "publish": "never"}, default=None)
    assert played.states["publish"] == "skipped"
    assert "is false (score.output.value = 0.1)" in played.why_of("publish")
    assert (played.result, played.attempts["publish"]) == (None, 0)
    assert played.unused == ("outcome of 'publish'",)
    assert "publish" not in played.calls


@pytest.mark.parametrize(
    ("outcome", "kind", "type_"),
    [
        (Fails("permanent", "no", type="Gone"), "permanent", "Gone"),
        (ValueError("no"), "transient", "ValueError"),
        (TimeoutError, "timeout", "TimeoutError"),
        (RateLimited("slower", 30), "rate_limited", "RateLimited"),
        (lambda _: 1 / 0, "transient", "ZeroDivisionError"),
    ],
)
def test_an_attempt_fails_as_the_script_says(outcome: Any, kind: str, type_: str) -> None:
    """By a kind, by an exception with the kind that it means to a worker, or by what a function raises."""
    g = Graph("g", retry=1)
    g.add("x", key="a")
    played = simulate(g, {"a": outcome})
    assert (played.states["a"], played.state) == ("failed", "failed")
    assert (played.errors["a"]["kind"], played.errors["a"]["type"]) == (kind, type_)


def test_a_list_is_one_outcome_for_each_attempt_and_the_last_repeats() -> None:
    """Waits between tries pass by the simulated clock; what an executor asks for is kept."""
    g = Graph("g", retry=Retry(5, "10s..10s"))
    g.add("x", key="a")
    g.add("x", key="b")
    played = simulate(g, {"a": [Fails(), RateLimited("later", 90), "done"], "b": [Fails("timeout")]})
    assert (played.attempts, played.states) == ({"a": 3, "b": 5}, {"a": "succeeded", "b": "failed"})
    assert words(played, "a") == ["ready", *(["dispatch", "retry", "wake"] * 2), "dispatch", "succeed"]
    assert 90 < next(it.at_ms for it in played.log if (it.node, it.word) == ("a", "succeed")) / 1000 < 100


def test_a_function_gets_the_call_and_a_list_it_returns_is_the_output() -> None:
    """Inputs, attempt and the key that stays the same; an AssertionError in it is the test's own."""
    g = Graph("g", retry=Retry(2, base_seconds=0))
    one = g.add("x", key="one", args=[1, 2], three=3)
    g.add("y", key="two", given=one.out[0])
    seen: list[Call] = []

    def twice(call: Call) -> Any:
        seen.append(call)
        return Fails() if call.attempt == 1 else [call.args[1], call.kwargs["three"]]

    played = simulate(g, {"one": twice, "two": Returns([])})
    assert (played.outputs, played.calls["two"][0].kwargs) == ({"one": [2, 3], "two": []}, {"given": 2})
    assert [(it.node, it.executor, it.attempt) for it in seen] == [("one", "x", 1), ("one", "x", 2)]
    assert len({it.key for it in seen}) == 1

    def wrong(_: Call) -> None:
        raise AssertionError("mine")

    with pytest.raises(AssertionError, match="mine"):
        simulate(g, {"one": wrong})


def test_an_executor_is_really_run() -> None:
    """Its inputs are checked, its output is what its annotation says, and it finds the attempt that it belongs to."""

    @executor("sums.add")
    def add(a: int, b: int) -> Sum:
        context = attempt()
        assert context is not None
        if context.number == 1:
            raise ConnectionError("not yet")
        return Sum(total=a + b)

    g = Graph("g", retry=Retry(2, base_seconds=0))
    total = g.add(add, key="total", a="1", b=2)
    g.add("x", key="next", of=total.out.total)
    g.add(add, key="broken", a="one", b=2)
    played = simulate(g, {"next": None}, executors={"sums.add": add})
    assert (played.outputs["total"], played.calls["next"][0].kwargs) == ({"total": 3}, {"of": 3})
    assert (played.attempts["total"], played.errors["broken"]["kind"]) == (2, "invalid_input")
    assert attempt() is None


def test_steps_of_a_ladder_go_to_their_executors() -> None:
    """Each rung may end otherwise; the log names it; the inputs are those of its step."""
    g = Graph("g")
    steps = [again(2, base_seconds=0), changed({"t": 0}), other("big", inputs={"q": "all"})]
    g.add(capability("ask"), key="a", t=1, retry=Retry(steps=steps))
    played = simulate(g, executors={"capability:ask": [Fails()], "big": lambda call: call.kwargs})
    assert [it.kwargs for it in played.calls["a"]] == [{"t": 1}, {"t": 1}, {"t": 0}, {"q": "all"}]
    assert played.outputs["a"] == {"q": "all"}
    assert "rung 3 of 3, executor big" in next(it.why for it in reversed(played.log) if it.word == "retry")


def test_secrets_are_exchanged_where_they_are_known() -> None:
    """In their places only; others stay names."""
    g = Graph("g")
    g.add("x", key="a", one=Secret("one"), two=[Secret("two")])
    played = simulate(g, default=None, secrets={"one": "hush"})
    assert played.calls["a"][0].kwargs == {"one": "hush", "two": [{"$secret": "two"}]}


# --- time -----------------------------------------------------------------------------------------------------


def test_time_passes_only_when_nothing_else_happens() -> None:
    """Ninety days take no time; instants are those of a run that begins when the test says."""
    g = Graph("g")
    long = g.timer("long", "90d")
    until = g.timer("until", until=datetime(2030, 5, 1, tzinfo=UTC))
    g.add("x", key="a", after=[long, until], timing=Timing(delay="1h"))
    played = simulate(g, {"a": Takes("30m", 1)}, start=datetime(2030, 4, 1, tzinfo=UTC))
    assert timedelta(seconds=played.seconds) == timedelta(days=90, hours=1, minutes=30)


@pytest.mark.parametrize(
    ("timing", "options", "outcome", "type_", "seconds"),
    [
        (Timing(total_timeout="10m"), {}, Takes("1h", 1), "TotalTimeout", 600),
        (Timing(start_timeout="2m"), {}, UNCLAIMED, "StartTimeout", 120),
        (Timing(silence="30s"), {}, HANGS, "Silent", 30),
        (Timing(outside="6h"), {}, HANGS, "JobTimeout", 21_600),
        (None, {"timeout": "20s"}, Takes("21s", 1), "TimeLimitExceeded", 20),
        (None, {}, HANGS, "TimeLimitExceeded", 3_600),
    ],
)
def test_limits_of_time_pass(timing: Timing | None, options: Any, outcome: Any, type_: str, seconds: float) -> None:
    """Each by the clock of the simulation; the error is the one that production gives."""
    g = Graph("g", retry=1)
    g.add("x", key="a", timing=timing, **options)
    played = simulate(g, {"a": outcome})
    assert (played.errors["a"]["type"], played.seconds) == (type_, seconds)


def test_a_deadline_ends_the_run() -> None:
    """What runs is not waited for."""
    g = Graph("g")
    g.add("x", key="a")
    played = simulate(g, {"a": Takes("30m", 1)}, deadline="10m")
    assert (played.state, played.states["a"], played.seconds) == ("failed", "cancelled", 600)


def test_the_first_of_a_race_withdraws_the_others() -> None:
    """How long attempts take decides it; what a loser would have given counts for nothing."""
    g = Graph("g")
    fast, slow = g.add("x", key="fast"), g.add("x", key="slow")
    g.race("first", [slow, fast])
    played = simulate(g, {"fast": Takes(1, "f"), "slow": Takes(2, "s")})
    assert played.outputs == {"fast": "f", "first": {"winners": ["fast"]}}
    assert (played.states["slow"], played.errors["slow"]["type"], played.seconds) == ("cancelled", "Withdrawn", 1)


def test_the_same_script_gives_the_same_run() -> None:
    """To the millisecond; another seed spreads the retries otherwise."""
    g = Graph("g", retry=Retry(4, "1s..60s"))
    g.add("x", key="a")
    one, same, another = (simulate(g, {"a": [Fails()]}, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.path == another.path
    assert one.seconds != another.seconds


# --- people and programs outside ------------------------------------------------------------------------------


def test_a_signal_comes_as_soon_as_a_node_waits_for_it_or_at_its_instant() -> None:
    """A script names it once; when a test cares, it says when."""
    g = Graph("g")
    paid = g.signal("paid", within="1h", default="nothing")
    g.add("x", key="a", sum=paid)
    assert simulate(g, default=None, signals=[("paid", 7)]).calls["a"][0].kwargs == {"sum": 7}
    early = simulate(g, default=None, signals=[Signal("paid", 7, at="59m", by="shop")])
    assert (early.outputs["paid"], early.seconds) == (7, 3_540)
    late = simulate(g, default=None, signals=[Signal("paid", 7, at="61m")])
    assert (late.outputs["paid"], late.seconds, late.unused) == ("nothing", 3_600, ("signal 'paid'",))


def test_people_answer_when_they_are_asked() -> None:
    """At once or later, as the first who may or as somebody who is asked in time; each question has its own answer."""
    g = Graph("g")
    g.approval("review", "Ship?", who=["ann"], within="1d", escalate=[("2h", ["boss"])])
    at_once = simulate(g, answers={"review": "approve"})
    assert at_once.outputs["review"]["by"] == "ann"
    later = simulate(g, answers={"review": Answer("reject", by="boss", after="3h", comment="no")})
    assert (later.outputs["review"]["choice"], later.seconds) == ("reject", 10_800)
    assert ("review", "escalate") in [(it.node, it.word) for it in later.log]
    nobody = simulate(g)
    assert nobody.errors["review"]["type"] == "AnswerTimeout"


def test_a_ladder_asks_and_is_answered() -> None:
    """Once for each time that it comes to its end."""
    g = Graph("g")
    g.add("x", key="a", retry=Retry(steps=[again(1), escalate("Again?", ["ann"])]))
    script: dict[str, Any] = {"a": [Fails(), Fails(), "done"]}
    assert simulate(g, script, answers={"a": ["retry", "retry"]}).outputs["a"] == "done"
    assert simulate(g, script, answers={"a": ["retry", "fail"]}).errors["a"]["type"] == "GivenUp"


@pytest.mark.parametrize("outcome", [Takes("2h", {"pages": 3}), Fails("permanent")])
def test_a_job_outside_ends_as_its_outcome_says(outcome: Any) -> None:
    """Its worker has begun it at once; meanwhile no worker is held."""
    g = Graph("g")
    g.add("farm.submit", key="job", timing=Timing(outside="6h"))
    played = simulate(g, {"job": outcome})
    assert words(played, "job") == ["ready", "dispatch", "hand_over", "succeed" if played.outputs else "fail"]
    assert (played.seconds, played.outputs) in ((7_200, {"job": {"pages": 3}}), (0, {}))


# --- purity ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("purity", "attempts"), [("keyed", 2), ("unsafe", 1)])
def test_a_lost_attempt_is_repeated_unless_its_executor_is_unsafe(purity: Any, attempts: int) -> None:
    """What the published contract says reaches the core as it does in production."""

    @executor("bank.pay", purity=purity)
    def pay() -> str:
        return "paid"

    g = Graph("g")
    g.add(pay, key="pay")
    played = simulate(g, {"pay": [Fails("lost"), "paid"]}, contracts={pay.name: pay.contract()})
    assert played.attempts["pay"] == attempts
    unclaimed = Fails("lost", type="NeverClaimed")
    assert simulate(g, {"pay": [unclaimed, 1]}, contracts={pay.name: pay.contract()}).outputs == {"pay": 1}


# --- what is wrong with a script ------------------------------------------------------------------------------


def test_a_node_without_an_outcome_is_an_error_that_names_it() -> None:
    """Nothing succeeds by silence."""
    with pytest.raises(Unscripted, match=r"node 'publish' was sent to 'cms\.publish'") as caught:
        simulate(scored(), {"score": {"value": 0.9}})
    assert (caught.value.node, caught.value.executor) == ("publish", "cms.publish")


def test_a_run_that_cannot_go_on_says_what_it_waits_for() -> None:
    """As an error that holds what happened so far, or as a result when the test says so."""
    g = Graph("g")
    g.signal("paid")
    g.approval("review", "Ship it?")
    g.add("x", key="sent")
    g.add("x", key="job", timing=Timing(outside=True))
    waits = (
        "node 'paid' waits for signal 'paid'",
        "node 'review' asks 'Ship it?': approve, reject",
        "attempt 1 of node 'sent' waits for a worker",
        "node 'job' waits for somebody outside to end its job",
    )
    with pytest.raises(Stuck, match="node 'paid' waits for signal 'paid'") as caught:
        simulate(g, {"sent": UNCLAIMED, "job": HANGS})
    assert (caught.value.waits, caught.value.simulation.states["review"]) == (waits, "waiting")
    played = simulate(g, {"sent": UNCLAIMED, "job": HANGS}, may_wait=True)
    assert (played.waits, played.state, played.states["sent"]) == (waits, "running", "dispatched")


def asking() -> Graph:
    """A graph with a wait of each kind that a script may get wrong."""
    g = Graph("asking")
    g.signal("paid", schema={"type": "object"})
    g.approval("review", "Ship?", who=["ann"], form={"type": "object", "required": ["why"]})
    g.add("x", key="a")
    return g


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ({"outcomes": {"b": 1}}, UnknownNode, "outcomes: the graph has no node 'b'"),
        ({"outcomes": {"paid": 1}}, InvalidValue, r"outcomes\[\"paid\"\]: 'signal' is no work"),
        ({"outcomes": {"a": []}}, InvalidValue, "scripts no attempt"),
        ({"outcomes": {"a": {1, 2}}, "signals": []}, NotJson, "cannot travel"),
        ({"signals": [("payd", {})]}, InvalidValue, "no node waits for. The graph has paid. Did you mean 'paid'"),
        ({"signals": [("paid", 7)]}, InvalidValue, r"signals\[0\].payload: 7 does not fit its schema"),
        ({"signals": ["paid"]}, InvalidValue, "is no signal"),
        ({"answers": {"a": "approve"}}, InvalidValue, "asks nobody anything"),
        ({"answers": {"b": "approve"}}, UnknownNode, "answers: the graph has no node 'b'"),
        ({"answers": {"review": 7}}, InvalidValue, "is no answer"),
        ({"answers": {"review": "approve"}}, InvalidValue, "does not fit its schema"),
        ({"answers": {"review": Answer("yes", {"why": 1})}}, InvalidValue, "is none of approve, reject"),
        ({"answers": {"review": Answer("approve", {"why": 1}, by="eve")}}, InvalidValue, "may not answer this"),
        ({"start": datetime(2024, 1, 1)}, InvalidValue, "has no zone"),  # noqa: DTZ001  that is what is wrong with it
    ],
)
def test_a_script_that_does_not_fit_the_graph_is_refused(script: Any, error: Any, message: str) -> None:
    """Before anything hides it: the place, what was found, and what to write instead."""
    given: dict[str, Any] = {"default": None, "may_wait": True, **script}
    with pytest.raises(error, match=message):
        simulate(asking(), **given)


@pytest.mark.parametrize("wrong", [{"kind": "broken"}, {"kind": "timeout", "origin": "me"}])
def test_a_failure_of_no_kind_is_refused(wrong: dict[str, Any]) -> None:
    """Kinds and origins are those of errors.py."""
    with pytest.raises(CeleriacError, match="Use one of"):
        Fails(**wrong)
