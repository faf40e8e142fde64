"""Guards, choices, closed edges and stop conditions, as the core decides them."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.core.decide import decide
from scheduler.core.events import Opened, RetryRequested
from scheduler.core.evolve import evolve
from scheduler.core.run import GRAPH_FORMAT, Run
from scheduler.core.states import NodeState
from scheduler.graph import Graph, Retry, has
from tests.unit.core.played import RUN, T0, Played


def scored(**options: Any) -> tuple[Graph, Any]:
    """A graph whose first node gives a score."""
    g = Graph("g", **options)
    return g, g.add("judge.score", key="score")


# --- guards of nodes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "state"), [(0.8, "dispatched"), (0.79, "skipped")])
def test_a_guard_lets_a_node_start_or_skips_it(value: float, state: str) -> None:
    """Its words say what was asked and what was met; a skip counts as one downstream."""
    g, score = scored()
    publish = g.add("cms.publish", key="publish", when=score.out.value >= 0.8)
    g.add("mail.send", key="mail", after=publish)
    play = Played(g)
    assert play.sent == ["score"]
    play.ends("score", {"value": value})
    assert play.state("publish") == state
    assert f"(score.output.value = {value})" in next(why for key, _, why in play.log if key == "publish" and why)
    assert play.state("mail") == ("pending" if state == "dispatched" else "skipped")


def test_a_guard_without_a_value_fails_its_node_and_nothing_else() -> None:
    """The error names the expression and what was met, is the policy's, and what follows is upstream_failed."""
    g, score = scored()
    publish = g.add("cms.publish", key="publish", when=score.out.value >= 0.8)
    g.add("mail.send", key="mail", after=publish)
    g.add("log.write", key="log", after=score)
    play = Played(g)
    play.ends("score", {"value": "high"})
    assert play.states() | {"score": ""} == {
        "score": "",
        "publish": "failed",
        "mail": "upstream_failed",
        "log": "dispatched",
    }
    error = play.values["publish"]
    assert (error["kind"], error["origin"], error["phase"]) == ("permanent", "policy", "guard")
    assert 'score.output.value = "high"' in error["message"]
    assert "score.output.value >= 0.8" in error["message"]
    play.ends("log")
    assert play.run.run_state == "failed"


def test_a_guard_reads_what_ended_before_only() -> None:
    """Under a rule that does not wait for all, what has not ended has no value; has() asks for that."""
    g = Graph("g")
    a, b = g.add("x", key="a"), g.add("x", key="b")
    g.add("x", key="blind", after=[a, b], trigger_rule="one_success", when=b.out.ok == True)  # noqa: E712  a formula
    g.add("x", key="careful", after=[a, b], trigger_rule="one_success", when=~has(b.out.ok))
    play = Played(g)
    play.ends("a", {})
    assert play.state("blind") == "failed"
    assert "pending" in play.values["blind"]["message"] or "dispatched" in play.values["blind"]["message"]
    assert play.state("careful") == "dispatched"


def test_a_guard_reads_errors_and_states() -> None:
    """For nodes that mend failures: the error's kind, the state's word, the number of attempts."""
    g = Graph("g", retry=Retry(2, base_seconds=0))
    a = g.add("x", key="a")
    for key, condition in {
        "slow": a.error.kind == "timeout",
        "broken": (a.error.kind == "permanent") & (a.attempts == 1),
        "state": a.state == "failed",
        "fine": a.error == None,  # noqa: E711  a formula
    }.items():
        g.add("x", key=key, after=a, trigger_rule="all_done", when=condition)
    play = Played(g)
    play.fails("a")
    assert {key: play.state(key) for key in ("slow", "broken", "state", "fine")} == {
        "slow": "skipped",
        "broken": "dispatched",
        "state": "dispatched",
        "fine": "skipped",
    }


def test_what_a_guard_reads_becomes_upstream_unless_it_is_an_ancestor() -> None:
    """So its value is known; and a rule that counts upstream nodes counts no ancestor that was there already."""
    g = Graph("g")
    a = g.add("x", key="a")
    b, c = g.add("x", key="b", after=a), g.add("x", key="c", after=a)
    g.add("x", key="far", after=[b, c], when=a.out.ok)
    g.add("x", key="near", when=a.out.ok)
    g.add("x", key="milestone", when=a.state == "pending")
    run = Played(g).run
    up = {key: [run.keys[it] for it in run.upstream(run.keys.index(key))] for key in run.keys}
    assert up["far"] == ["b", "c"]
    assert up["near"] == ["a"]
    assert up["milestone"] == []


# --- choices and edges ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "taken"), [(0.9, "good"), (0.6, "fair"), (0.1, "poor")])
def test_a_choice_takes_the_first_open_branch(value: float, taken: str) -> None:
    """It is no work: it succeeds in the same decision, with the branch as its output; the others are skipped."""
    g, score = scored()
    route = g.choice("route", {"good": score.out.value >= 0.8, "fair": score.out.value >= 0.5}, otherwise="poor")
    for branch in route.branches:
        g.add("x", key=branch, after=route[branch])
    g.add("x", key="always", after=route)
    g.add("x", key="names", branch=route.out.branch)
    play = Played(g)
    play.ends("score", {"value": value})
    assert play.values["route"] == {"branch": taken}
    assert play.sent == sorted(["always", "names", taken])
    assert {play.state(it) for it in ("good", "fair", "poor") if it != taken} == {"skipped"}
    assert f"branch {taken}" in next(why for key, move, why in play.log if (key, move) == ("route", "decide"))
    assert play.run.outputs[play.run.keys.index("route")] == b'{"branch":"%s"}' % taken.encode()


def test_an_edge_is_closed_for_one_node_and_open_for_another() -> None:
    """Each edge has its own guard (multi-choice); a closed one counts as skipped, whatever the rule makes of that."""
    g, score = scored()
    g.add("x", key="high", after=score.when(score.out.value > 0.5))
    g.add("x", key="low", after=score.when(score.out.value <= 0.5))
    g.add("x", key="both", after=[score.when(score.out.value > 0.5)], trigger_rule="none_failed")
    play = Played(g)
    play.ends("score", {"value": 0.4})
    assert play.states() | {"score": ""} == {"score": "", "high": "skipped", "low": "dispatched", "both": "dispatched"}
    assert play.run.closed == {0: (1, 3)}


def test_an_edge_whose_guard_has_no_value_fails_the_node_behind_it() -> None:
    """And no other one; a node that has begun already goes on."""
    g = Graph("g")
    a, b = g.add("x", key="a"), g.add("x", key="b")
    g.add("x", key="broken", after=[a.when(a.out.no.such > 1), b])
    g.add("x", key="begun", after=[a.when(a.out.no.such > 1), b], trigger_rule="one_success")
    play = Played(g)
    play.ends("b")
    assert play.state("begun") == "dispatched"
    play.ends("a", {})
    assert play.state("broken") == "failed"
    assert "edge from 'a'" in play.values["broken"]["message"]
    assert play.state("begun") == "dispatched"


def test_a_choice_without_a_value_fails() -> None:
    """As a guard does: the error says which branch could not be judged, by the values met."""
    g, score = scored()
    route = g.choice("route", {"good": score.out.value >= 0.8}, otherwise="poor")
    g.add("x", key="poor", after=route["poor"])
    play = Played(g)
    play.ends("score", {})
    assert play.states() == {"score": "succeeded", "route": "failed", "poor": "upstream_failed"}
    assert play.values["route"]["origin"] == "policy"
    assert play.run.run_state == "failed"


def test_choices_follow_choices_at_once() -> None:
    """Whole trees of decisions are made in the decision that makes them possible."""
    g, score = scored()
    first = g.choice("first", {"in": score.out.value > 0}, otherwise="out")
    second = g.choice("second", {"far": score.out.value > 5}, otherwise="near", after=first["in"])
    g.add("x", key="far", after=second["far"])
    g.add("x", key="near", after=second["near"])
    g.add("x", key="out", after=first["out"])
    play = Played(g)
    play.ends("score", {"value": 3})
    assert play.sent == ["near"]
    assert play.run.run_state == "running"
    play.ends("near")
    assert play.run.run_state == "succeeded"


# --- stop conditions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
def test_a_run_stops_when_it_has_what_it_wants(outcome: str) -> None:
    """Whatever has not begun is skipped with the reason; what runs ends by itself and decides nothing more."""
    g = Graph("g", retry=Retry(3, base_seconds=0))
    tries = [g.add("model.ask", key=f"try-{n}") for n in range(3)]
    best = g.add("pick.best", key="best", answers=list(tries))
    g.add("mail.send", key="mail", body=best)
    g.stop_when(tries[0].out.quality > 0.9, outcome=outcome, reason="good enough")
    play = Played(g)
    play.ends("try-0", {"quality": 0.95})
    assert play.states() == {
        "try-0": "succeeded",
        "try-1": "dispatched",
        "try-2": "dispatched",
        "best": "skipped",
        "mail": "skipped",
    }
    assert play.why("mail").startswith("stopped: good enough: ")
    play.fails("try-1", kind="transient")
    assert play.state("try-1") == "failed", "a stopped run tries nothing again"
    play.ends("try-2", {})
    assert play.run.run_state == outcome
    assert "good enough" in play.run.reason


def test_a_stop_takes_back_what_was_ready_and_what_waits() -> None:
    """No attempt number is spent on what is never sent, and no timer is left."""
    g = Graph("g", retry=Retry(3, base_seconds=10))
    a, b = g.add("x", key="a"), g.add("x", key="b")
    g.add("x", key="c", after=a)
    g.stop_when(a.out.enough)
    play = Played(g)
    play.fails("b", kind="transient")
    assert play.state("b") == "waiting"
    decision = play.ends("a", {"enough": True})
    assert decision.cancelled == [f"retry:{play.run.keys.index('b')}:1", "deadline"]
    assert play.states() == {"a": "succeeded", "b": "skipped", "c": "skipped"}
    assert play.run.attempt[play.run.keys.index("c")] == 0
    assert play.run.run_state == "succeeded"
    del b


@pytest.mark.parametrize(("given", "state"), [({"n": 2}, "succeeded"), ({}, "running"), ({"n": "two"}, "failed")])
def test_a_stop_condition_waits_until_it_has_a_value(given: Any, state: str) -> None:
    """What has not ended, or is not there, is not true; || needs one side only. What it cannot judge is a failure."""
    g = Graph("g")
    a, b = g.add("x", key="a"), g.add("x", key="b")
    g.add("x", key="c", after=[a, b])
    g.stop_when((a.out.n > 1) | (b.out.n > 1))
    play = Played(g)
    play.ends("a", {"n": 0})
    assert play.run.run_state == "running"
    play.ends("b", given)
    assert play.run.run_state == state
    assert play.state("c") == ("dispatched" if state == "running" else "skipped")
    assert ("no value" in play.run.reason) is (state == "failed")


# --- crashes, retries, versions ---------------------------------------------------------------------------------


def test_a_run_that_is_opened_again_decides_the_same() -> None:
    """What was decided and not recorded is decided again from the facts, with the same words and branches."""
    g, score = scored()
    route = g.choice("route", {"good": score.out.value >= 0.8}, otherwise="poor")
    g.add("x", key="good", after=route["good"])
    g.add("x", key="poor", after=route["poor"])
    play = Played(g)
    before = play.run
    record = None
    play.ends("score", {"value": 0.9})
    record = before.record(0).encode()
    again = Run.load(RUN, play.header, play.pages, [(0, record)], created_at_ms=T0)
    assert again.guards is not None
    again.facts[0] = again.guards.facts(0, "output", {"value": 0.9})
    evolve(again, decide(again, Opened(), play.now), play.now)
    assert [NodeState(it).word for it in again.state] == ["succeeded", "succeeded", "ready", "skipped"]
    assert again.outputs == {} or again.outputs[1] == b'{"branch":"good"}'


def test_a_stop_is_found_again_by_a_new_owner() -> None:
    """A crash between the record of what ended and the rest loses no stop."""
    g, score = scored()
    g.add("x", key="next", after=score)
    g.stop_when(score.out.value > 0.5)
    play = Played(g)
    play.ends("score", {"value": 0.9})
    again = Run.load(RUN, play.header, play.pages, [(0, play.run.record(0).encode())], created_at_ms=T0)
    assert again.guards is not None
    again.facts[0] = again.guards.facts(0, "output", {"value": 0.9})
    evolve(again, decide(again, Opened(), play.now), play.now)
    assert again.run_state == "succeeded"
    assert again.reason.startswith("stopped: ")


def test_a_retry_decides_anew() -> None:
    """Facts, closed edges and the stop of what runs again are forgotten."""
    g, score = scored()
    g.add("x", key="high", after=score.when(score.out.value > 0.5))
    g.add("x", key="broken", after=score)
    play = Played(g)
    play.ends("score", {"value": 0.1})
    play.fails("broken")
    assert play.run.run_state == "failed"
    play.happen(RetryRequested("again"))
    play.happen(Opened())
    assert play.sent == ["broken"]
    assert play.run.closed == {0: (play.run.keys.index("high"),)}, "score was not opened again, so it stays decided"
    play.ends("broken")
    assert play.run.run_state == "succeeded"


def test_a_graph_of_a_later_version_is_not_run_without_what_it_says() -> None:
    """It names the oldest version that can read it; who is older refuses, and leaves the run alone."""
    g, score = scored()
    g.add("x", key="b", when=score.out.ok)
    compiled = g.compile()
    assert compiled.header["min_reader"] == 2
    waiting = Graph("waiting")
    waiting.timer("nap", "1s")
    assert waiting.compile().header["min_reader"] == 3
    with pytest.raises(ValueError, match="this version reads up to"):
        Run.load(RUN, {**compiled.header, "min_reader": GRAPH_FORMAT + 1}, compiled.pages(), created_at_ms=T0)
    plain = Graph("plain")
    plain.add("x")
    assert "min_reader" not in plain.compile().header
