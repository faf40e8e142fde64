"""Documents: JSON, YAML and dicts read alike; whatever is wrong is a GraphError that names the place."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scheduler.errors import (
    DuplicateNode,
    GraphError,
    InvalidValue,
    NotJson,
    TooLarge,
    UnreadableDocument,
)
from scheduler.graph import Graph
from scheduler.graph.handles import Node


def document(**node: Any) -> dict[str, Any]:
    """A graph of one node "a" with these fields."""
    return {"celeriac": 1, "name": "g", "nodes": [{"key": "a", "executor": "x", **node}]}


FULL: dict[str, Any] = {
    "celeriac": 1,
    "name": "digest",
    "nodes": [
        {"key": "front", "executor": "web.fetch", "inputs": {"url": "https://example.org"}},
        {
            "key": "text", "executor": "llm.summarise", "args": [{"$ref": "front", "path": ["html", 0]}, 1.5],
            "inputs": {"why": {"$ref": "front", "of": "error"}, "far": {"$ref": "front", "ancestor": True}},
            "after": ["front"], "trigger_rule": "quorum(1)", "queue_class": "standard-low", "labels": {"a": "b"},
            "retry": {"max_attempts": 4, "base_seconds": 0.5, "factor": 3.0, "cap_seconds": 30.0, "max_losses": 1},
            "timeout_seconds": 300.0, "soft_timeout_seconds": 290.0,
        },
    ],
    "returns": "text",
}  # fmt: skip


def test_a_document_comes_back_as_it_was() -> None:
    """A canonical document survives dict, JSON and YAML, with one hash."""
    g = Graph.from_document(FULL)
    assert g.document() == FULL
    assert Graph.from_json(json.dumps(FULL)).hash == g.hash
    assert Graph.from_json(g.to_json().encode("utf-8-sig")).hash == g.hash
    assert Graph.from_yaml(yaml.safe_dump(FULL)).hash == g.hash
    assert Graph.from_yaml(g.to_yaml().encode()).document() == FULL


def test_builder_and_document_have_one_hash() -> None:
    """The same graph, built with handles, is the same graph; this pins the canonical form itself."""
    from scheduler.graph import Retry

    g = Graph("digest")
    front = g.add("web.fetch", key="front", url="https://example.org")
    text = g.add(
        "llm.summarise", key="text", args=[front.out.html[0], 1.5], why=front.error, far=front.out.of_ancestor(),
        after=front, trigger_rule="quorum(1)", queue_class="standard-low", labels={"a": "b"},
        retry=Retry(4, "500ms..30s", factor=3, max_losses=1), timeout="5m", soft_timeout=290,
    )  # fmt: skip
    g.returns(text)
    assert g.document() == FULL
    assert g.hash == Graph.from_document(FULL).hash
    assert list(g.compile().pages()) == list(Graph.from_document(FULL).compile().pages())


def test_the_canonical_form_does_not_drift() -> None:
    """Hashes are stored with runs and compared across versions: this one may change only with the format's number."""
    plain = json.dumps(
        {**FULL, "nodes": sorted(FULL["nodes"], key=lambda n: n["key"])},
        sort_keys=True, separators=(",", ":"), ensure_ascii=False,
    )  # fmt: skip
    assert Graph.from_document(FULL).hash == hashlib.blake2b(plain.encode(), digest_size=16).hexdigest()
    assert Graph.from_document(FULL).hash == "e3122ae5be7ec215817a8794ee86b1ad"


def test_defaults_are_left_out() -> None:
    """Spelled-out defaults make the same graph as silence."""
    spelled = document(
        args=[], inputs={}, after=[], trigger_rule="all_success", retry={"max_attempts": 3, "factor": 2},
        timeout_seconds=None, soft_timeout_seconds=None, queue_class=None, labels={},
    )  # fmt: skip
    assert Graph.from_document({**spelled, "returns": None}).document() == document()
    assert Graph.from_document(
        document(inputs={"v": {"$ref": "b", "path": [], "of": "output", "ancestor": False}})
    ).hash == (Graph.from_document(document(inputs={"v": {"$ref": "b"}})).hash)


def test_a_literal_is_taken_as_it_stands() -> None:
    """Nothing inside {"$literal": ...} is looked at; a needless one is left out of the canonical form."""
    inner = {"$ref": "no-such-node", "deep": {"$literal": [{"$ref": 5}]}}
    g = Graph.from_document(document(inputs={"v": {"$literal": inner}, "w": {"$literal": {"a": {"$ref": 1}}}}))
    assert g.document()["nodes"][0]["inputs"] == {"v": {"$literal": inner}, "w": {"a": {"$literal": {"$ref": 1}}}}
    g.check()


@pytest.mark.parametrize(
    ("wrong", "at"),
    [
        (None, "the graph document"),
        ([], "the graph document"),
        ({}, "celeriac"),
        ({"celeriac": 1, "name": "g"}, "nodes"),
        ({"celeriac": 2, "name": "g", "nodes": []}, "celeriac"),
        ({"celeriac": True, "name": "g", "nodes": []}, "celeriac"),
        ({"celeriac": "1", "name": "g", "nodes": []}, "celeriac"),
        ({"celeriac": 1, "name": "", "nodes": []}, "name"),
        ({"celeriac": 1, "name": "g", "nodes": []}, "nodes"),
        ({"celeriac": 1, "name": "g", "nodes": {}}, "nodes"),
        ({"celeriac": 1, "name": "g", "nodes": [7]}, "nodes[0]"),
        ({"celeriac": 1, "name": "g", "nodes": [{"key": "a"}]}, "nodes[0].executor"),
        ({"celeriac": 1, "name": "g", "nodes": [{"key": 1, "executor": "x"}]}, "nodes[0].key"),
        ({**document(), "nmae": 1}, "the graph document"),
        ({**document(), "returns": 7}, "returns"),
        (document(exeutor="x"), "nodes[0]"),
        (document(executor=True), 'nodes["a"].executor'),
        (document(args={}), 'nodes["a"].args'),
        (document(args="ab"), 'nodes["a"].args'),
        (document(inputs=[]), 'nodes["a"].inputs'),
        (document(inputs={1: 2}), 'nodes["a"].inputs'),
        (document(after="b"), 'nodes["a"].after'),
        (document(after=["b", 7]), 'nodes["a"].after[1]'),
        (document(trigger_rule="never"), 'nodes["a"].trigger_rule'),
        (document(trigger_rule=None), 'nodes["a"].trigger_rule'),
        (document(retry=3), 'nodes["a"].retry'),
        (document(retry={"max_attemps": 3}), 'nodes["a"].retry'),
        (document(retry={"max_attempts": True}), 'nodes["a"].retry.max_attempts'),
        (document(retry={"base_seconds": "1s"}), 'nodes["a"].retry.base_seconds'),
        (document(retry={"base_seconds": 100}), 'nodes["a"].retry.cap_seconds'),
        (document(timeout_seconds="20s"), 'nodes["a"].timeout_seconds'),
        (document(timeout_seconds=True), 'nodes["a"].timeout_seconds'),
        (document(timeout_seconds=-1), 'nodes["a"].timeout_seconds'),
        (document(timeout_seconds=0), 'nodes["a"].timeout_seconds'),
        (document(timeout_seconds=float("nan")), 'nodes["a"].timeout_seconds'),
        (document(timeout_seconds=10, soft_timeout_seconds=10), 'nodes["a"].soft_timeout_seconds'),
        (document(queue_class=""), 'nodes["a"].queue_class'),
        (document(labels={"a": 1}), 'nodes["a"].labels["a"]'),
        (document(labels=["a"]), 'nodes["a"].labels'),
        (document(labels={str(i): "x" for i in range(65)}), 'nodes["a"].labels'),
        (document(inputs={"v": [{"$ref": 5}]}), 'nodes["a"].inputs["v"][0]["$ref"]'),
        (document(inputs={"v": {"$ref": "b", "paht": []}}), 'nodes["a"].inputs["v"]'),
        (document(inputs={"v": {"$ref": "b", "path": "x"}}), 'nodes["a"].inputs["v"]["path"]'),
        (document(inputs={"v": {"$ref": "b", "path": [0, -1]}}), 'nodes["a"].inputs["v"]["path"][1]'),
        (document(inputs={"v": {"$ref": "b", "path": [True]}}), 'nodes["a"].inputs["v"]["path"][0]'),
        (document(inputs={"v": {"$ref": "b", "path": ["x"] * 65}}), 'nodes["a"].inputs["v"]["path"]'),
        (document(inputs={"v": {"$ref": "b", "of": "outptu"}}), 'nodes["a"].inputs["v"]["of"]'),
        (document(inputs={"v": {"$ref": "b", "ancestor": 1}}), 'nodes["a"].inputs["v"]["ancestor"]'),
        (document(args=[0, {"$literal": 5}]), 'nodes["a"].args[1]'),
        (document(args=[{"$literal": {}, "x": 1}]), 'nodes["a"].args[0]'),
        (document(args=[{"$literal": {"a": "\ud800"}}]), 'nodes["a"].args[0]["a"]'),
        (document(args=[Node(object(), "b")]), 'nodes["a"].args[0]'),
        (document(args=[{"a": float("inf")}]), 'nodes["a"].args[0]["a"]'),
    ],
    ids=range(53),
)
def test_every_mistake_is_named_with_its_place(wrong: Any, at: str) -> None:
    """Field by field: where, what, and a sentence that says what to write."""
    with pytest.raises(InvalidValue) as refused:
        Graph.from_document(wrong)
    assert (refused.value.at or "the graph document") == at
    assert str(refused.value).startswith(at)
    assert refused.value.remedy
    assert str(refused.value).isprintable()


def test_duplicate_nodes_and_too_many_are_refused() -> None:
    """A key that stands twice is named by position; a million nodes is the limit."""
    twice = document()
    twice["nodes"] *= 2
    with pytest.raises(DuplicateNode, match=r"^nodes\[1\]\.key"):
        Graph.from_document(twice)
    with pytest.raises(TooLarge, match="1,000,001 nodes"):
        Graph.from_document({**document(), "nodes": [None] * 1_000_001})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not JSON"),
        ("{", "line 1, column 2"),
        ('{"a": 1,\n "a": 2}', "key 'a' twice"),
        ('{"celeriac": NaN}', "NaN"),
        ('{"celeriac": -Infinity}', "-Infinity"),
        ("[" * 200_000, "nested"),
        ("1" * 5_000, "digits"),
        (b"\xff", "byte 0 is not UTF-8"),
        (7, "not text"),
    ],
    ids=range(9),
)
def test_text_that_is_no_json_is_refused(text: Any, problem: str) -> None:
    """With line and column where there is one."""
    with pytest.raises(UnreadableDocument, match=problem):
        Graph.from_json(text)


def test_a_number_that_overflows_is_refused() -> None:
    """1e400 reads as infinity in Python and must not get through."""
    with pytest.raises(NotJson, match=r'inputs\["v"\]'):
        Graph.from_json(json.dumps(document(inputs={"v": 1})).replace('"v": 1', '"v": 1e400'))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\na: 2", r"line 2, column 1: a mapping has the key 'a' twice"),
        ("a: [", "not YAML"),
        ("a: !!python/object/apply:os.system [ls]", "tag"),
        ("a: !!python/name:os.system x", "tag"),
        ("a: !!binary aGk=", "tag"),
        ("a: !!int x", "tag"),
        ("a: .nan", "not a JSON value"),
        ("a: -.inf", "not a JSON value"),
        ("a: 1e999", "too large"),
        ("1: a", "the key 1 is not text"),
        ("yes: a\nnull: b", "the key None is not text"),
        ("? [a]\n: b", "a key is a list"),
        ("--- 1\n--- 2", "more than one document"),
        ("a: *b", "alias"),
        ("a: &a [*a]", "inside of what it names"),
        ("[" * 1_000, "nested too deeply"),
        ("- " * 1_000, "nested too deeply"),
        (b"\xff", "byte 0 is not UTF-8"),
        (7, "not text"),
        ("a: \x00", "not YAML"),
        ("a: \ud800", "not YAML"),
    ],
    ids=range(21),
)
def test_text_that_is_no_usable_yaml_is_refused(text: Any, problem: str) -> None:
    """No tag makes an object, no alias makes a bomb, keys are text and stand once."""
    with pytest.raises(UnreadableDocument, match=problem):
        Graph.from_yaml(text)


def test_alias_bombs_are_counted() -> None:
    """Nine levels of ten aliases each are refused before they are unfolded; honest aliases are read."""
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(UnreadableDocument, match="aliases repeat more than"):
        Graph.from_yaml("\n".join(lines))
    g = Graph.from_yaml(
        """
        celeriac: 1
        name: aliases
        nodes:
          - {key: a, executor: x, inputs: &i {url: "https://example.org", on: yes}}
          - {key: b, executor: x, inputs: *i, labels: {day: 2026-11-20}}
        """
    )
    assert g.document()["nodes"][0]["inputs"] == {"on": "yes", "url": "https://example.org"}
    assert g.document()["nodes"][1]["inputs"] == g.document()["nodes"][0]["inputs"]
    assert g.document()["nodes"][1]["labels"] == {"day": "2026-11-20"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
FINITE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(
        ["1e3", "010", "yes", "~", "null", ".5", "0x1F", "1_000", "2026-11-20", "<<", "=", "- a", "a: b", ""]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.sampled_from(["$ref", "$literal", "<<"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["celeriac", "name", "nodes", "returns", "key", "executor", "args", "inputs", "after", "trigger_rule", "retry",
     "timeout_seconds", "labels", "queue_class", "max_attempts", "base_seconds", "$ref", "$literal", "path", "of"]
)  # fmt: skip
GARBAGE = st.recursive(
    st.sampled_from([1, True, "a", "all_done", "quorum(1)", 3.0, None, "\ud800", b"x", math.nan, -1, 10**400]) | JSON,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.dictionaries(FIELDS | st.integers() | st.none(), inner, max_size=6)
        | st.fixed_dictionaries(
            {"celeriac": st.just(1), "name": st.just("g") | inner, "nodes": st.lists(inner, max_size=3) | inner}
        )
        | st.fixed_dictionaries({"key": st.just("a") | inner, "executor": st.just("x")}, optional={"inputs": inner,
            "args": inner, "after": inner, "labels": inner, "retry": inner, "timeout_seconds": inner})
    ),
    max_leaves=30,
)  # fmt: skip


def _read(read: Callable[[Any], Graph], garbage: Any) -> Graph | None:
    """The graph, or None when it was refused in words that a terminal can show."""
    try:
        return read(garbage)
    except GraphError as refused:
        message = str(refused)
    assert message.isprintable()
    return None


@given(GARBAGE)
def test_garbage_gives_graph_errors_only(garbage: Any) -> None:
    """Whatever is handed over, the only error is ours; what is accepted compiles or says why, and comes back equal."""
    g = _read(Graph.from_document, garbage)
    if g is None:
        return
    assert Graph.from_document(g.document()).hash == g.hash
    try:
        compiled = g.compile()
    except GraphError:
        return
    assert b"".join(compiled.pages())


@given(st.text() | st.binary() | JSON.map(repr) | GARBAGE.map(repr))
def test_garbage_as_text_gives_graph_errors_only(text: Any) -> None:
    """The same for JSON and YAML text."""
    for read in (Graph.from_json, Graph.from_yaml):
        _read(read, text)


@given(FINITE)
def test_values_come_back_through_every_way_of_writing(value: Any) -> None:
    """Any JSON value handed to the builder comes back from JSON and YAML equal, with the same hash."""
    g = Graph("g")
    a = g.add("x", key="a")
    g.add("x", key="b", value=value, handle=a)
    for again in (Graph.from_document(g.document()), Graph.from_json(g.to_json()), Graph.from_yaml(g.to_yaml())):
        assert again.hash == g.hash
    body = g.compile()._template(g._specs["b"].inputs)
    text = "".join(part if isinstance(part, str) else '"handle"' for part in body)
    assert json.loads(f"[{text}]") == [[], {"handle": "handle", "value": value}]
