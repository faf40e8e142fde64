"""Guards, choices and stops as people write them: operators on handles, documents, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from scheduler.errors import (
    CycleFound,
    ExpressionError,
    GraphError,
    HandleMisused,
    InvalidValue,
    NotAnAncestor,
    SelfLoop,
    UnknownNode,
)
from scheduler.graph import Graph, has, size, within


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (lambda a, b: a.out.x == 1, "a.output.x == 1"),
        (lambda a, b: a.out.x != 1, "a.output.x != 1"),
        (lambda a, b: a.out.x < 0.5, "a.output.x < 0.5"),
        (lambda a, b: a.out.x <= b.out.y, "a.output.x <= b.output.y"),
        (lambda a, b: (a.out.x >= 1) & ~(b.out.y == "no"), 'a.output.x >= 1 && !(b.output.y == "no")'),
        (lambda a, b: a.out.ok | b.out.ok & ~a.out.no, "a.output.ok || b.output.ok && !a.output.no"),
        (lambda a, b: a.out.x + 1 > 2 * b.out.y - 3 / a.out.z, "a.output.x + 1 > 2 * b.output.y - 3 / a.output.z"),
        (lambda a, b: 7 % a.out.x == -b.out.y, "7 % a.output.x == -b.output.y"),
        (lambda a, b: has(a.out.rows[0].name), "has(a.output.rows[0].name)"),
        (lambda a, b: size(a.out.rows) > 3, "size(a.output.rows) > 3"),
        (lambda a, b: within(a.out.word, ("yes", "sure")), 'a.output.word in ["yes", "sure"]'),
        (lambda a, b: a.error.kind == "timeout", 'a.error.kind == "timeout"'),
        (lambda a, b: a.state == "failed", 'a.state == "failed"'),
        (lambda a, b: a.attempts > 1, "a.attempts > 1"),
        (lambda a, b: a.out.x == None, "a.output.x == null"),  # noqa: E711  a formula
        (lambda a, b: a.out.ok, "a.output.ok"),
        (lambda a, b: True, "true"),
        (lambda a, b: "a.output.x>1&&true", "a.output.x > 1 && true"),
    ],
)
def test_operators_on_handles_write_the_text_of_an_expression(write: Callable[[Any, Any], Any], text: str) -> None:
    """And so does the text itself; one graph, one hash, however it was written."""
    g = Graph("g")
    a, b = g.add("x", key="a"), g.add("x", key="b")
    g.add("x", key="c", when=write(a, b))
    assert g.document()["nodes"][2]["when"] == text
    assert Graph.from_json(g.to_json()).hash == g.hash


def test_a_formula_has_no_value_yet() -> None:
    """`if`, `and`, `in` and formatting raise with advice; a copy is the formula itself."""
    g = Graph("g")
    a = g.add("x", key="a")
    formula = a.out.x > 1
    uses: list[Callable[[], Any]] = [
        lambda: bool(formula),
        lambda: [1] and not formula,
        lambda: 1 < a.out.x < 3,
        lambda: a.out.x in [1, 2],
        lambda: f"{formula}",
        lambda: list(formula),
    ]
    for use in uses:
        with pytest.raises(HandleMisused, match="stands where Python needs its value"):
            use()
    assert copy.deepcopy(formula) is formula
    assert repr(formula) == "Formula('a.output.x > 1')"
    with pytest.raises(TypeError):
        hash(formula)


def branched() -> Graph:
    """One of everything."""
    g = Graph("g")
    score = g.add("judge.score", key="score")
    route = g.choice("route", {"good": score.out.value >= 0.8, "fair": score.out.value >= 0.5}, otherwise="poor")
    g.add("a", key="a", after=[route["good"], score.when(score.out.value < 2)], labels={"team": "x"})
    g.add("b", key="b", after=route["poor"], when=score.out.ok, trigger_rule="all_done", retry=5)
    g.stop_when(score.out.value > 0.99, reason="enough")
    g.stop_when("score.state == 'failed'", outcome="failed")
    return g


def test_one_graph_one_hash_from_python_json_and_yaml() -> None:
    """Whatever branches there are; each of them is part of the hash."""
    g = branched()
    for again in (Graph.from_json(g.to_json()), Graph.from_yaml(g.to_yaml()), Graph.from_document(g.document())):
        assert again.hash == g.hash
        assert again.to_json() == g.to_json()
        assert again.compile().header == g.compile().header
    document = g.document()
    changes: list[Callable[[Any], Any]] = [
        lambda it: it["nodes"][1].update(otherwise="bad"),
        lambda it: it["nodes"][1]["choice"].reverse(),
        lambda it: it["nodes"][2]["after"].pop(),
        lambda it: it["nodes"][3].pop("when"),
        lambda it: it["stops"].pop(),
        lambda it: it["stops"][0].update(outcome="failed"),
    ]
    for change in changes:
        changed = copy.deepcopy(document)
        change(changed)
        assert Graph.from_document(changed).hash != g.hash


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda it: it["nodes"][3].update(when="score.output.value >"), ExpressionError, r'nodes\["b"\]\.when'),
        (lambda it: it["nodes"][3].update(when=7), InvalidValue, r'nodes\["b"\]\.when: 7 is not text'),
        (lambda it: it["nodes"][3].update(when="size(score.output.rows)"), ExpressionError, r'nodes\["b"\]\.when'),
        (lambda it: it["nodes"][3].update(when="scores.output.ok"), UnknownNode, "scores"),
        (lambda it: it["nodes"][3].update(when="b.output.ok"), SelfLoop, "depends on itself"),
        (lambda it: it["nodes"][0].update(when="a.output.ok"), CycleFound, "cycle"),
        (lambda it: it["nodes"][1].pop("otherwise"), InvalidValue, "otherwise"),
        (lambda it: it["nodes"][1].update(executor="x"), InvalidValue, "executor"),
        (lambda it: it["nodes"][1].update(choice=[]), InvalidValue, "are not 1 to 100"),
        (lambda it: it["nodes"][1].update(otherwise="good"), InvalidValue, "name of two branches"),
        (lambda it: it["nodes"][1]["choice"][0].pop("when"), InvalidValue, r"choice\[0\]\.when"),
        (lambda it: it["nodes"][2].update(after=[{"node": "route"}]), InvalidValue, "one of when and branch"),
        (lambda it: it["nodes"][2].update(after=[{"node": "route", "branch": "god"}]), InvalidValue, "mean 'good'"),
        (lambda it: it["nodes"][2].update(after=[{"node": "score", "branch": "x"}]), InvalidValue, "is no choice"),
        (
            lambda it: it["nodes"][2].update(
                after=[{"node": "route", "branch": "good"}, {"node": "route", "branch": "fair"}]
            ),
            InvalidValue,
            "two guards on one edge",
        ),
        (
            lambda it: it["nodes"][2].update(after=[{"node": "score", "when": "b.output.ok"}]),
            NotAnAncestor,
            "ancestor",
        ),
        (lambda it: it["stops"][0].pop("when"), InvalidValue, r"stops\[0\]\.when"),
        (lambda it: it["stops"][0].update(outcome="skipped"), InvalidValue, r"stops\[0\]\.outcome"),
        (lambda it: it.update(stops=[{"when": "true"}] * 21), InvalidValue, "more than 20"),
        (lambda it: it.update(stops=[{"when": "1 + 1"}]), ExpressionError, r"stops\[0\]\.when"),
    ],
)
def test_what_does_not_fit_is_refused_where_it_stands(
    change: Callable[[Any], Any], error: type[GraphError], says: str
) -> None:
    """Found, where, and what to do; nothing is compiled."""
    document = branched().document()
    change(document)
    with pytest.raises(error, match=says):
        Graph.from_document(document).compile()


def test_conditions_are_checked_against_published_schemas() -> None:
    """A field that the output cannot have, a comparison that can never fit, a branch that there is not."""
    output = {"type": "object", "properties": {"value": {"type": "number"}, "tags": {"type": "array"}}}
    contracts = {"judge.score": {"output_schema": output}, "x": {}}

    def refused(condition: str) -> str:
        g = Graph("g")
        score = g.add("judge.score", key="score")
        g.choice("route", {"good": score.out.value > 1}, otherwise="poor")
        g.add("x", key="b", when=condition)
        with pytest.raises(ExpressionError) as found:
            g.compile(contracts=contracts)
        assert found.value.at == 'nodes["b"].when'
        return str(found.value)

    assert "valeu" in refused("score.output.valeu > 1")
    assert "string" in refused("score.output.value > 'high'")
    assert "bool" in refused("score.output.value")
    assert "brunch" in refused("route.output.brunch == 'good'")


def test_handles_of_another_graph_are_refused() -> None:
    """In a guard, on an edge, in a choice and in a stop condition."""
    g, other = Graph("g"), Graph("other")
    mine, foreign = g.add("x", key="a"), other.add("x", key="a")
    uses: list[Callable[[], Any]] = [
        lambda: g.add("x", when=foreign.out.ok),
        lambda: mine.when(foreign.out.ok),
        lambda: g.add("x", after=foreign.when(foreign.out.ok)),
        lambda: g.choice("c", {"a": foreign.out.ok}, otherwise="b"),
        lambda: g.stop_when(foreign.out.ok),
        lambda: (mine.out.x == 1) & (foreign.out.x == 1),
    ]
    for use in uses:
        with pytest.raises(HandleMisused, match=r"another graph|different graphs"):
            use()
    assert g.keys == ("a",)
