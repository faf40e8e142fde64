"""Policies in simulations: what they set, what their checks find, and what mappers make, without an installation."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.errors import InvalidValue
from scheduler.graph import Graph, Retry, again, other
from scheduler.testing import Coverage, Fails, NotCovered, Stuck, simulate

POLICY: dict[str, Any] = {
    "version": "7",
    "system": {"retry": {"max_attempts": 2}},
    "executors": {"llm.*": {"checks": ["short", "clean"]}},
    "checks": {
        "short": {"before": "size(input.prompt) <= 3", "message": "prompts are short"},
        "clean": {"after": "!has(output.flagged)"},
    },
    "mappers": {"text@1": "it.text", "loud@1": {"text": "it.text", "n": "size(it.text)"}},
}


def asks(prompt: str, **options: Any) -> Graph:
    """A graph of one question, and what comes of it."""
    g = Graph("asks")
    answer = g.add("llm.ask", key="ask", prompt=prompt, **options)
    g.add("print", key="print", got=answer)
    return g


def test_a_policy_governs_a_simulated_run() -> None:
    """Its layers count for nodes that say nothing; the run's log tells that it was taken up."""
    played = simulate(asks("hi"), {"ask": Fails("transient")}, default=None, policy=POLICY)
    assert played.attempts["ask"] == 2
    assert simulate(asks("hi"), {"ask": Fails("transient")}, default=None).attempts["ask"] == 3
    assert (played.log[0].word, played.log[0].why) == ("policy", "version 7")


def test_what_a_check_denies_is_not_sent_and_goes_the_way_of_its_ladder() -> None:
    """As in an installation: it fails as safety, and a step for that has its turn."""
    played = simulate(asks("too long"), default=None, policy=POLICY)
    assert played.states == {"ask": "failed", "print": "upstream_failed"}
    assert (played.errors["ask"]["kind"], played.errors["ask"]["phase"]) == ("safety", "admit")
    assert "ask" not in played.calls
    saved = asks("too long", retry=Retry(steps=[again(1), other("quick", on=["safety"])]))
    played = simulate(saved, default="yes", policy=POLICY)
    assert played.state == "succeeded"
    assert [call.executor for call in played.calls["ask"]] == ["quick"]


def test_an_output_that_a_check_denies_is_not_passed_on() -> None:
    """The attempt that gave it has failed."""
    played = simulate(asks("hi"), {"ask": {"flagged": True}}, default=None, policy=POLICY)
    assert (played.states["ask"], played.errors["ask"]["phase"]) == ("failed", "collect")
    assert "print" not in played.calls
    assert simulate(asks("hi"), {"ask": {"fine": True}}, default=None, policy=POLICY).state == "succeeded"


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_a_check_cannot_judge_waits_and_others_go_on(when: str) -> None:
    """A simulation has no other policy to wait for, so it is stuck there, and says which check it is."""
    broken = {**POLICY, "checks": {**POLICY["checks"], "clean": {when: "size(input.nothing) > 1"}}}
    g = asks("hi")
    g.add("print", key="free")
    with pytest.raises(Stuck, match=r"node 'ask' is blocked by policy 7: the check 'clean' cannot be made") as stuck:
        simulate(g, default=None, policy=broken)
    assert stuck.value.simulation.states["free"] == "succeeded"
    assert len(stuck.value.simulation.calls.get("ask", ())) == (0 if when == "before" else 1)


def test_mappers_make_the_inputs() -> None:
    """By the policy's definitions; what does not fit fails the node as a broken contract."""
    g = Graph("mapped")
    made = g.add("make", key="made")
    g.add("print", key="print", text=made.via("text@1"), loud=made.via("loud@1"))
    played = simulate(g, {"made": {"text": "hi"}}, default=None, policy=POLICY)
    assert played.calls["print"][0].kwargs == {"text": "hi", "loud": {"text": "hi", "n": 2}}
    played = simulate(g, {"made": {"text": 7}}, default=None, policy=POLICY)
    assert (played.states["print"], played.errors["print"]["kind"]) == ("failed", "contract")
    assert "print" not in played.calls


def test_branches_of_a_policy_are_covered() -> None:
    """What it sets, and each check letting pass and denying; a check that never denied is named with what it asks."""
    g = Graph("branches")
    ask = g.add("llm.ask", key="ask", prompt="hi")
    g.add("print", key="print", when=ask.out.score > 1)
    coverage = Coverage(g, POLICY)
    coverage.simulate({"ask": {"score": 2}}, default=None)
    coverage.simulate({"ask": {"score": 0}}, default=None)
    assert set(coverage.missing()) == {
        "check 'short', before size(input.prompt) <= 3: denies it",
        "check 'clean', after !has(output.flagged): denies it",
        "node 'ask': tried again",
        "node 'ask': no try is left, or none would help",
        "node 'print': tried again",
        "node 'print': no try is left, or none would help",
        "node 'print': all_success says upstream_failed",
    }
    coverage.simulate({"ask": {"flagged": 1}}, default=None)
    coverage.simulate({"ask": [Fails("transient"), {"score": 2}], "print": Fails("transient")}, default=None)
    assert coverage.missing() == ["check 'short', before size(input.prompt) <= 3: denies it"]
    with pytest.raises(NotCovered, match="check 'short'"):
        coverage.check()
    coverage.check(but=["check 'short'*denies it"])


def test_checks_of_other_executors_are_no_branches() -> None:
    """A policy is for many graphs; each is tried with what concerns it."""
    g = Graph("plain")
    g.add("print", key="print")
    assert not [it for it in Coverage(g, POLICY).branches if it.startswith("check")]


def test_a_wrong_policy_is_told_before_anything_happens() -> None:
    """With its place, as `celeriac policy check` tells it."""
    with pytest.raises(InvalidValue, match="version"):
        simulate(asks("hi"), default=None, policy={})
