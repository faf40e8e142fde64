"""Explanations: every node that has moved has one, the core decides the same of what it cites, and none is idle."""

from __future__ import annotations

import random

import pytest

from scheduler.core.explain import Explainer
from scheduler.core.facts import redo, same
from scheduler.core.guards import Facts
from scheduler.core.history import History, Line
from scheduler.core.states import NodeState
from tests.unit.core.recorded import Journal
from tests.unit.core.test_replay import CHUNKS, drawn, seeds


def explainer(it: Journal, until_ms: int | None = None, lines: list[Line] | None = None) -> Explainer:
    """Of a run, by its log (or `lines` of it) and what the store has of it."""

    def facts_of(node: int) -> Facts:
        assert it.run.guards is not None
        what = "error" if it.run.state[node] == NodeState.FAILED else "output"
        return it.run.guards.facts(node, what, it.values.get(node))

    run = it.load(it.records.items())
    run.run_state, run.reason = it.run.run_state, it.run.reason
    return Explainer(run, History(it.lines if lines is None else lines, until_ms), facts_of)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_decision_comes_out_the_same_of_what_is_cited(chunk: int) -> None:
    """1,000 random runs, each move of each: cited facts alone lead the core to it, and its words agree with the log."""
    for seed in seeds(chunk):
        it = drawn(seed)
        of = explainer(it)
        for node in range(it.run.n):
            for before in [*of.history.moves(node), None][1:]:
                reason = of.reason(node, before)
                assert of.check(reason) == "", f"seed {seed}, node {node}: {reason}"
                assert not reason.unknown or reason.facts, f"seed {seed}, node {node}: {reason}"


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_cited_fact_is_idle(chunk: int) -> None:
    """Take one away, and the core decides otherwise, in other words, or not at all. Reasons rest on something."""
    for seed in seeds(chunk):
        it = drawn(seed)
        of = explainer(it)
        for node in range(it.run.n):
            reason = of.reason(node)
            if reason.line is None or reason.unknown or reason.line.why.startswith("stopped: "):
                continue
            for fact in reason.facts:
                fewer = [one for one in reason.facts if one is not fact]
                assert not same(reason.line, redo(it.run, reason.line, fewer)), f"seed {seed}: {fact} of {reason}"
            rests = reason.facts or reason.line.word in ("ready", "decide", "refuse", "skip")
            assert rests, f"seed {seed}: {reason}"


WHERE = {
    "ready": "ready",
    "wake": "ready",
    "lose": "ready",
    "dispatch": "dispatched",
    "retry": "waiting",
    "succeed": "succeeded",
    "decide": "succeeded",
    "fail": "failed",
    "refuse": "failed",
    "skip": "skipped",
    "upstream_fail": "upstream_failed",
    "cancel": "cancelled",
    "reopen": "pending",
}
"""Move -> where it leads, written down once more for the oracle."""


@pytest.mark.parametrize("chunk", range(2))
def test_where_nodes_stood_is_what_an_oracle_reads_from_the_log(chunk: int) -> None:
    """At any instant: state, decisions so far and, for who waits, which upstream nodes are open; by the log alone."""
    for seed in seeds(chunk):
        it = drawn(seed)
        at_ms = random.Random(seed).randint(it.lines[0].at_ms - 1, it.now)
        stands = dict.fromkeys(range(it.run.n), "pending")
        for line in it.lines:
            if line.at_ms <= at_ms and line.node >= 0:
                stands[line.node] = WHERE[line.word]
        of = explainer(it, at_ms)
        for node, word in stands.items():
            reason = of.reason(node)
            assert reason.state.word == word, f"seed {seed}, node {node}"
            if reason.line is None:
                open_ones = {up for up in it.run.upstream(node) if stands[up] in OPEN}
                assert {fact.node for fact in reason.facts if fact.value in OPEN} == open_ones


OPEN = ("pending", "ready", "dispatched", "waiting")


@pytest.mark.parametrize("told", [True, False])
def test_a_log_that_has_lost_lines_is_explained_as_far_as_it_goes(told: bool) -> None:
    """Cut off at the front, or with lines missing: nothing raises, what is gone is said, the rest still holds."""
    said = 0
    for seed in range(120):
        it = drawn(seed, told=told)
        chance = random.Random(seed)
        cut = it.lines[chance.randrange(len(it.lines)) :]
        holed = [line for line in it.lines if chance.random() > 0.2]
        for lines in (cut, holed):
            of = explainer(it, lines=lines)
            for node in range(it.run.n):
                reason = of.reason(node)
                of.check(reason)
                of.chain(reason)
                said += bool(reason.unknown)
                known = {line.id for line in lines}
                assert all(fact.id in known or not fact.id[:1].isdigit() for fact in reason.facts)
    assert said > 100


@pytest.mark.parametrize("chunk", range(2))
def test_logs_of_the_version_before_are_explained_too(chunk: int) -> None:
    """Without told events: how an attempt ended follows from its line."""
    for seed in seeds(chunk):
        it = drawn(seed, told=False)
        of = explainer(it)
        for node in range(it.run.n):
            reason = of.reason(node)
            assert of.check(reason) == "", f"seed {seed}, node {node}: {reason}"


def test_a_changed_log_is_found_by_the_check() -> None:
    """Another reason, another cause's end, another number of failures: the core does not decide that."""
    found = tried = 0
    for seed in range(80):
        it = drawn(seed)
        chance = random.Random(seed)
        lines = it.lines
        ends = [
            at for at, line in enumerate(lines) if line.word in ("skip", "upstream_fail", "fail", "decide", "retry")
        ]
        if not ends:
            continue
        at = chance.choice(ends)
        other = {"skip": "upstream_fail", "upstream_fail": "skip"}.get(lines[at].word)
        changed = lines[at]._replace(word=other) if other else lines[at]._replace(why=lines[at].why + "9")
        of = explainer(it, lines=[*lines[:at], changed, *lines[at + 1 :]])
        reason = of.reason(changed.node, at + 1)
        tried += 1
        found += bool(of.check(reason) or reason.unknown)
    assert found > 0.9 * tried
