"""Coverage: every branch of a graph's policy is named, and each is found when a run takes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from scheduler import Graph, InvalidValue, Retry, Timing, again, escalate, other
from scheduler.core.rules import RULE_NAMES, Answer, parse_rule
from scheduler.core.run import Run
from scheduler.testing import HANGS, UNCLAIMED, Coverage, Fails, NotCovered, Signal, Stuck, Takes, simulate
from scheduler.testing import Answer as Said
from scheduler.testing.possible import answers_of


def branches(coverage: Coverage) -> set[str]:
    """The words of those that were taken."""
    return {words for words, count in coverage.branches.items() if count}


# --- each kind of branch --------------------------------------------------------------------------------------


def guarded() -> Graph:
    """A node that runs under a condition."""
    g = Graph("guarded")
    a = g.add("x", key="a")
    g.add("x", key="b", when=a.out.v > 1)
    return g


def gated() -> Graph:
    """An edge that is open under a condition."""
    g = Graph("gated")
    a = g.add("x", key="a")
    g.add("x", key="b", after=[a.when(a.out.v > 1)], trigger_rule="all_done")
    return g


def chosen() -> Graph:
    """A choice."""
    g = Graph("chosen")
    a = g.add("x", key="a")
    g.choice("way", {"high": a.out.v > 5, "low": a.out.v > 1}, otherwise="none")
    return g


def stopped() -> Graph:
    """Two stop conditions, of which one is a beginning of the other."""
    g = Graph("stopped")
    a = g.add("x", key="a")
    g.add("x", key="b", after=a)
    g.stop_when(a.out.v > 10, reason="a lot")
    g.stop_when(a.out.v > 1)
    return g


def tried() -> Graph:
    """Retry policies: a declared one, that of everybody, and one without a retry."""
    g = Graph("tried")
    g.add("x", key="a", retry=Retry(2, base_seconds=0))
    g.add("x", key="plain")
    g.add("x", key="once", retry=1)
    return g


def laddered() -> Graph:
    """A fallback behind retries."""
    g = Graph("laddered")
    g.add("x", key="a", retry=Retry(steps=[again(2, base_seconds=0), other("big")]))
    return g


def asked() -> Graph:
    """A person behind a failure."""
    g = Graph("asked")
    g.add("x", key="a", retry=Retry(steps=[again(1), escalate("Again?", ["ann"])]))
    return g


def raced() -> Graph:
    """A race of work and a signal."""
    g = Graph("raced")
    a, b = g.add("x", key="a", retry=1), g.signal("b", within="1h")
    g.race("first", [a, b])
    return g


def waited() -> Graph:
    """Waits of three kinds."""
    g = Graph("waited")
    g.timer("late", "1h")
    g.signal("paid", within="2h", default=0)
    g.approval("review", "Ship?", who=["ann"], within="1d", escalate=[("2h", ["boss"])])
    return g


def limited() -> Graph:
    """Limits of time."""
    g = Graph("limited")
    limits = Timing(delay="1m", start_timeout="10s", total_timeout="30m", silence="30s")
    g.add("x", key="a", timing=limits, retry=1)
    return g


def outside() -> Graph:
    """A job that somebody outside ends."""
    g = Graph("outside")
    g.add("x", key="job", timing=Timing(outside="1h"), retry=1)
    return g


def v(value: float) -> dict[str, Any]:
    """A script in which the first node gives this."""
    return {"outcomes": {"a": {"v": value}}}


RULED = "node 'b': all_success says start"
CASES: list[tuple[Callable[[], Graph], dict[str, Any], set[str]]] = [
    (guarded, v(2), {RULED, "node 'b': when a.output.v > 1 is true"}),
    (guarded, v(0), {RULED, "node 'b': when a.output.v > 1 is false"}),
    (guarded, {"outcomes": {"a": Fails("permanent")}}, {"node 'b': all_success says upstream_failed"}),
    (gated, v(2), {"node 'b': all_done says start", "edge 'a' -> 'b': a.output.v > 1: open"}),
    (gated, v(0), {"node 'b': all_done says start", "edge 'a' -> 'b': a.output.v > 1: closed"}),
    (chosen, v(9), {"node 'way': all_success says start", "choice 'way': branch high, when a.output.v > 5"}),
    (chosen, v(2), {"node 'way': all_success says start", "choice 'way': branch low, when a.output.v > 1"}),
    (chosen, v(0), {"node 'way': all_success says start", "choice 'way': branch none, when no other is open"}),
    (stopped, v(11), {"stop condition a.output.v > 10 (a lot): ends the run"}),
    (stopped, v(9), {"stop condition a.output.v > 1: ends the run"}),
    (
        stopped,
        v(0),
        {
            RULED,
            "stop condition a.output.v > 10 (a lot): a run ends without it",
            "stop condition a.output.v > 1: a run ends without it",
        },
    ),
    (tried, {"outcomes": {"a": [Fails(), 1]}}, {"node 'a': tried again"}),
    (tried, {"outcomes": {"a": Fails("permanent")}}, {"node 'a': no try is left, or none would help"}),
    (tried, {"outcomes": {"once": Fails()}}, {"node 'once': no try is left, or none would help"}),
    (laddered, {"outcomes": {"a": [Fails(), 1]}}, {"node 'a': rung 1 of 2, the same again"}),
    (laddered, {"outcomes": {"a": [Fails("permanent"), 1]}}, {"node 'a': rung 2 of 2, executor big, fallback_from x"}),
    (laddered, {"outcomes": {"a": Fails("safety")}}, {"node 'a': no rung answers"}),
    (
        asked,
        {"outcomes": {"a": [Fails(), 1]}, "answers": {"a": "retry"}},
        {"node 'a': rung 2 of 2, a person is asked: Again?", "node 'a': the person who is asked says retry"},
    ),
    (
        asked,
        {"outcomes": {"a": Fails()}, "answers": {"a": "fail"}},
        {"node 'a': rung 2 of 2, a person is asked: Again?", "node 'a': the person who is asked says fail"},
    ),
    (raced, {}, {"race 'first': 'a' is among the winners"}),
    (
        raced,
        {"outcomes": {"a": Takes(1, 1)}, "signals": [("b", 1)]},
        {"signal 'b': it comes", "race 'first': 'b' is among the winners"},
    ),
    (
        raced,
        {"outcomes": {"a": Fails("permanent")}},
        {
            "node 'a': no try is left, or none would help",
            "signal 'b': nothing comes within 3600 s",
            "race 'first': nobody wins",
        },
    ),
    (
        waited,
        {"signals": [("paid", 1)], "answers": {"review": "approve"}},
        {"timer 'late': its instant comes", "signal 'paid': it comes", "approval 'review': answered approve"},
    ),
    (
        waited,
        {"answers": {"review": Said("reject", after="3h")}},
        {
            "timer 'late': its instant comes",
            "signal 'paid': nothing comes within 7200 s",
            "approval 'review': boss may answer too",
            "approval 'review': answered reject",
        },
    ),
    (
        limited,
        {"outcomes": {"a": UNCLAIMED}},
        {"delay 'a': its instant comes", "node 'a': its limit of start passes, 10 s"},
    ),
    (
        limited,
        {"outcomes": {"a": HANGS}},
        {
            "delay 'a': its instant comes",
            "node 'a': its limit of silence passes, 30 s",
            "node 'a': no try is left, or none would help",
        },
    ),
    (
        limited,
        {"outcomes": {"a": Takes("40m", 1)}},
        {"delay 'a': its instant comes", "node 'a': its limit of total passes, 1800 s"},
    ),
    (outside, {}, {"outside 'job': its job is ended"}),
    (
        outside,
        {"outcomes": {"job": HANGS}},
        {"outside 'job': nothing comes within 3600 s", "node 'job': no try is left, or none would help"},
    ),
]


@pytest.mark.parametrize(("make", "script", "took"), CASES, ids=[f"{it[0].__name__}-{n}" for n, it in enumerate(CASES)])
def test_a_run_takes_its_branches_and_no_others(
    make: Callable[[], Graph], script: dict[str, Any], took: set[str]
) -> None:
    """What counts is what the core has decided: each branch is named by its node and expression."""
    coverage = Coverage(make())
    coverage.simulate(**{"default": None, **script})
    assert branches(coverage) == took


@pytest.mark.parametrize("make", dict.fromkeys(it[0] for it in CASES))
def test_the_cases_above_take_all_branches_but_these(make: Callable[[], Graph]) -> None:
    """Together they miss what only the failure of an upstream node brings about, or a limit that none waits for."""
    coverage = Coverage(make())
    for other_make, script, _ in CASES:
        if other_make is make:
            coverage.simulate(**{"default": None, **script})
    left = {
        "gated": [],
        "chosen": ["node 'way': all_success says upstream_failed"],
        "stopped": ["node 'b': all_success says upstream_failed"],
        "waited": ["approval 'review': nothing comes within 86400 s"],
    }
    assert coverage.missing() == left.get(make.__name__, [])


# --- which answers of a rule are possible ---------------------------------------------------------------------


def answers(rule: str, first: str, second: str) -> set[str]:
    """What a node's rule may say whose two upstream nodes are of these kinds."""
    g = Graph("g")
    root = g.add("x", key="root")
    kinds: dict[str, Callable[[str], Any]] = {
        "work": lambda key: g.add("x", key=key),
        "guarded": lambda key: g.add("x", key=key, when=root.out.v > 1),
        "timer": lambda key: g.timer(key, 1),
        "signal": lambda key: g.signal(key, within=1),
    }
    up = [kinds[first]("one"), kinds[second]("two")]
    g.add("x", key="it", after=up, trigger_rule=rule)
    compiled = g.compile()
    run = Run.load("r", compiled.header, compiled.pages(), created_at_ms=0)
    return {it.name for it in answers_of(run)[run.keys.index("it")]}


@pytest.mark.parametrize(
    ("rule", "first", "second", "wanted"),
    [
        ("all_success", "timer", "timer", {"START"}),
        ("all_success", "work", "timer", {"START", "UPSTREAM_FAIL"}),
        ("all_success", "guarded", "timer", {"START", "SKIP", "UPSTREAM_FAIL"}),
        ("all_success", "signal", "timer", {"START", "UPSTREAM_FAIL"}),
        ("all_failed", "work", "timer", {"SKIP"}),
        ("all_failed", "work", "work", {"START", "SKIP"}),
        ("all_done", "guarded", "work", {"START"}),
        ("one_success", "work", "work", {"START", "UPSTREAM_FAIL"}),
        ("one_success", "work", "timer", {"START"}),
        ("none_skipped", "work", "work", {"START"}),
        ("none_failed_min_one_success", "guarded", "timer", {"START", "UPSTREAM_FAIL"}),
        ("quorum(2)", "work", "timer", {"START", "UPSTREAM_FAIL"}),
        ("quorum(1)", "guarded", "guarded", {"START", "SKIP", "UPSTREAM_FAIL"}),
        ("always", "work", "work", {"START"}),
    ],
)
def test_only_possible_answers_of_a_rule_are_wanted(rule: str, first: str, second: str, wanted: set[str]) -> None:
    """As far as the ends of the upstream nodes go; a timer always succeeds, work may fail, a guard may skip."""
    assert answers(rule, first, second) == wanted


@pytest.mark.parametrize("rule", [*RULE_NAMES, "quorum(3)"])
def test_possible_answers_are_those_of_all_ways_to_end(rule: str) -> None:
    """Whatever the rule: the same as by trying every combination of ends of four nodes that may end in any way."""
    g = Graph("g")
    root = g.add("x", key="root")
    up = [g.add("x", key=f"up{n}", when=root.out.v > n) for n in range(4)]
    g.add("x", key="it", after=up, trigger_rule=rule)
    compiled = g.compile()
    run = Run.load("r", compiled.header, compiled.pages(), created_at_ms=0)
    every = {
        parse_rule(rule).answer(4, s, f, u, 4 - s - f - u)
        for s in range(5)
        for f in range(5 - s)
        for u in range(5 - s - f)
    }
    assert answers_of(run)[-1] == every - {Answer.WAIT}


def test_many_upstream_nodes_cost_little() -> None:
    """A node that waits for 3,000 others, with a quorum: in a moment, and exactly."""
    g = Graph("g")
    up = [g.add("x") if n % 2 else g.timer(f"t{n}", 1) for n in range(3_000)]
    g.add("x", key="met", after=up, trigger_rule="quorum(1500)")
    g.add("x", key="open", after=up, trigger_rule="quorum(1501)")
    compiled = g.compile()
    found = answers_of(Run.load("r", compiled.header, compiled.pages(), created_at_ms=0))
    assert found[-2:] == [{Answer.START}, {Answer.START, Answer.UPSTREAM_FAIL}]


# --- how it is used -------------------------------------------------------------------------------------------


def test_check_lists_what_no_run_has_taken() -> None:
    """An AssertionError with node and expression; what values never let happen can be left out, by its words."""
    coverage = Coverage(chosen())
    assert coverage.simulate({"a": {"v": 9}}).outputs["way"] == {"branch": "high"}
    with pytest.raises(NotCovered, match="3 of 5 branches of graph 'chosen' were not taken") as caught:
        coverage.check()
    assert isinstance(caught.value, AssertionError)
    assert caught.value.missing == (
        "node 'way': all_success says upstream_failed",
        "choice 'way': branch low, when a.output.v > 1",
        "choice 'way': branch none, when no other is open",
    )
    coverage.check(but=["node 'way': all_success says upstream_failed", "choice 'way': *"])
    with pytest.raises(InvalidValue, match=r"'route \*' fits no branch"):
        coverage.check(but=["route *"])


def test_the_report_counts() -> None:
    """How many branches were taken in how many runs, and each how often."""
    coverage = Coverage(guarded())
    coverage.simulate({"a": {"v": 0}})
    coverage.simulate({"a": {"v": 1}})
    assert coverage.report().splitlines() == [
        "graph 'guarded': 2 of 4 branches taken in 2 runs",
        "     2x  node 'b': all_success says start",
        "  never  node 'b': all_success says upstream_failed",
        "  never  node 'b': when a.output.v > 1 is true",
        "     2x  node 'b': when a.output.v > 1 is false",
    ]


def test_runs_that_got_stuck_and_runs_from_elsewhere_count_too() -> None:
    """What was decided was decided; a run of another graph is refused."""
    g = waited()
    coverage = Coverage(g)
    coverage.add(simulate(g, signals=[Signal("paid", 1, at="1m")]))
    assert "signal 'paid': it comes" in branches(coverage)
    forever = Graph("forever")
    forever.signal("never", after=forever.timer("soon", 1))
    stuck = Coverage(forever)
    with pytest.raises(Stuck):
        stuck.simulate()
    assert branches(stuck) == {"timer 'soon': its instant comes", "node 'never': all_success says start"}
    with pytest.raises(InvalidValue, match="is the hash of another graph"):
        coverage.add(simulate(guarded(), default=None))


def test_a_graph_without_policy_has_nothing_to_cover() -> None:
    """Nodes side by side, with the retries that everybody gets."""
    g = Graph("g")
    g.add("x")
    g.add("y")
    Coverage(g).check()
