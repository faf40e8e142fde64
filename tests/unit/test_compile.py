"""Compile: order, checks across nodes, contracts, and pages as the core loads them."""

from __future__ import annotations

import contextlib
import json
import random
import zlib
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.run import Run
from scheduler.errors import (
    CycleFound,
    GraphError,
    InputMismatch,
    InvalidValue,
    NotAnAncestor,
    PathNotInOutput,
    SelfLoop,
    UnknownClass,
    UnknownExecutor,
    UnknownNode,
)
from scheduler.graph import Graph, Retry
from scheduler.graph.compile import CompiledGraph


def pages(compiled: CompiledGraph) -> list[dict[str, Any]]:
    """Pages, unpacked."""
    return [json.loads(zlib.decompress(p)) for p in compiled.pages()]


def wired(edges: Mapping[str, str]) -> Graph:
    """One node per entry, after the nodes whose one-letter keys are listed: {"a": "", "b": "a"}."""
    g = Graph("g")
    for key, after in edges.items():
        g.add("x", key=key, after=list(after))
    return g


def test_the_compiled_form_is_what_interfaces_promise() -> None:
    """Header, profiles, and a page with inputs as text and references in turn."""
    g = Graph("digest")
    front = g.add("web.fetch", key="front", url="ü")
    text = g.add("llm", key="text", args=[front.out.html[0]], b=1, a={"z": [front.error], "y": "s"}, labels={"l": "v"})
    g.add("mail", key="mail", after=text, retry=Retry(5, "2s..9s"), timeout=1.5, soft_timeout=1, queue_class="c",
          trigger_rule="all_done")  # fmt: skip
    g.returns(text)

    compiled = g.compile()

    profile = {
        "executor": "web.fetch", "queue_class": None, "rule": "all_success", "max_attempts": 3, "base_ms": 1000,
        "factor": 2.0, "cap_ms": 60000, "max_losses": 5, "timeout_ms": None, "soft_timeout_ms": None,
    }  # fmt: skip
    mail = {
        "executor": "mail", "queue_class": "c", "rule": "all_done", "max_attempts": 5, "base_ms": 2000,
        "factor": 2.0, "cap_ms": 9000, "max_losses": 5, "timeout_ms": 1500, "soft_timeout_ms": 1000,
    }  # fmt: skip
    assert compiled.header == {
        "v": 1, "name": "digest", "hash": g.hash, "nodes": 3, "pages": 1, "edges": 2,
        "profiles": [profile, profile | {"executor": "llm"}, mail], "returns": 1,
    }  # fmt: skip
    assert pages(compiled) == [
        {
            "v": 1, "first": 0, "keys": ["front", "text", "mail"], "profile": [0, 1, 2], "up": [[], [0], [1]],
            "inputs": [
                '[],{"url":"ü"}',
                ["[", [0, ["html", 0], "output"], '],{"a":{"y":"s","z":[', [0, [], "error"], ']},"b":1}'],
                "[],{}",
            ],
            "labels": {"1": {"l": "v"}},
        }
    ]  # fmt: skip
    assert (compiled.nodes, compiled.keys, compiled.hash) == (3, ("front", "text", "mail"), g.hash)
    assert compiled.index("mail") == 2
    with pytest.raises(UnknownNode):
        compiled.index("nobody")


def test_core_loads_what_compile_writes() -> None:
    """The run in memory has the same keys, edges, rules and time limits."""
    g = Graph("g")
    nodes = [g.add("x", key=f"n{i}", labels={"i": str(i)}) for i in range(2_500)]
    last = g.add("y", key="join", after=nodes, trigger_rule="quorum(2000)", timeout=9)
    g.returns(last)
    compiled = g.compile()

    run = Run.load("r", compiled.header, compiled.pages(), created_at_ms=0)

    assert run.keys == list(compiled.keys)
    assert list(run.upstream(2_500)) == list(range(2_500))
    assert run.profiles[run.profile[2_500]].rule.name == "quorum(2000)"
    assert run.profiles[run.profile[2_500]].timeout_ms == 9_000
    assert run.labels[2_499] == {"i": "2499"}
    assert run.returns == 2_500


def test_pages_hold_a_thousand_nodes() -> None:
    """And fewer when their inputs are large; the header says how many pages there are."""
    g = Graph("g")
    for i in range(2_001):
        g.add("x", v=i)
    compiled = g.compile()
    assert [len(p["keys"]) for p in pages(compiled)] == [1000, 1000, 1]
    assert [p["first"] for p in pages(compiled)] == [0, 1000, 2000]
    assert compiled.header["pages"] == 3

    heavy = Graph("heavy")
    for _ in range(40):
        heavy.add("x", v='"' * 500_000)
    compiled = heavy.compile()
    sizes = [len(zlib.decompress(p)) for p in compiled.pages()]
    assert compiled.header["pages"] == len(sizes) > 1
    assert max(sizes) <= 16 * 1_048_576


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ({"a": "b", "b": "a"}, "a -> b -> a"),
        ({"s": "", "a": "sc", "b": "a", "c": "b", "z": "c"}, "a -> b -> c -> a"),
        ({"z": "a", "a": "b", "b": "c", "c": "a"}, "a -> c -> b -> a"),
    ],
)
def test_cycles_are_shown(edges: Mapping[str, str], message: str) -> None:
    """Each arrow of the walk is an edge, upstream to downstream; only the cycle itself is in it."""
    with pytest.raises(CycleFound) as refused:
        wired(edges).compile()
    shown = refused.value.nodes
    assert all(a in edges[b] for a, b in zip(shown, (*shown[1:], shown[0]), strict=True))
    letters = message.split(" -> ")[:-1]
    assert set(shown) == set(letters)
    assert " -> ".join((*shown, shown[0])) in str(refused.value)


def test_a_long_cycle_is_found_without_recursion() -> None:
    """Fifty thousand nodes in a ring."""
    g = Graph("ring")
    for i in range(50_000):
        g.add("x", key=str(i), after=str((i + 1) % 50_000))
    with pytest.raises(CycleFound) as refused:
        g.compile()
    assert len(refused.value.nodes) == 50_000


def test_self_loops_are_named_by_place() -> None:
    """In after, and as a reference, an ancestor's included."""
    with pytest.raises(SelfLoop, match=r'^nodes\["a"\]\.after\[0\]: node .a. depends on itself'):
        wired({"a": "a"}).compile()
    document = wired({"a": ""}).document()
    document["nodes"][0]["inputs"] = {"v": [0, {"$ref": "a"}]}
    with pytest.raises(SelfLoop, match=r'^nodes\["a"\]\.inputs\["v"\]\[1\]'):
        Graph.from_document(document).compile()
    document["nodes"][0]["inputs"] = {"v": {"$ref": "a", "ancestor": True}}
    with pytest.raises(NotAnAncestor):
        Graph.from_document(document).compile()


def test_missing_nodes_are_named_by_place() -> None:
    """In after, as a reference, as an ancestor, as returns; with the closest key offered."""
    g = Graph("g")
    g.add("x", key="b", after="nobody")
    with pytest.raises(UnknownNode, match=r'^nodes\["b"\]\.after\[0\].*no node .nobody.'):
        g.compile()
    document = Graph("g").document() | {"nodes": [{"key": "load", "executor": "x"}, {"key": "b", "executor": "x"}]}
    for more in ({}, {"ancestor": True}):
        document["nodes"][1]["args"] = [{"v": [{"$ref": "laod", **more}]}]
        with pytest.raises(UnknownNode, match=r"""^nodes\["b"\]\.args\[0\]\["v"\]\[0\].*Did you mean 'load'"""):
            Graph.from_document(document).compile()
    with pytest.raises(UnknownNode, match=r"^returns"):
        Graph.from_document({**wired({"a": ""}).document(), "returns": "b"}).compile()
    with pytest.raises(InvalidValue, match="no node"):
        Graph("empty").compile()


def test_order_is_topological_and_near_to_declaration() -> None:
    """Declared in order, nodes keep their places; else of all that may come next the first declared comes first."""
    assert wired({"b": "", "a": "", "c": "ab"}).compile().keys == ("b", "a", "c")
    assert wired({"d": "bc", "c": "a", "z": "", "b": "a", "a": ""}).compile().keys == ("z", "a", "c", "b", "d")


@given(st.integers(1, 40), st.randoms(use_true_random=False))
def test_any_acyclic_graph_compiles_to_its_own_edges(n: int, r: random.Random) -> None:
    """Whatever the order of declaration: parents come first, each edge stands once, nothing is added."""
    keys = [f"k{i}" for i in range(n)]
    parents = {k: {keys[j] for j in range(i) if r.random() < 0.2} for i, k in enumerate(keys)}
    r.shuffle(keys)
    g = Graph("g")
    for k in keys:
        g.add("x", key=k, after=parents[k])
    compiled = g.compile()
    page = pages(compiled)[0]
    assert sorted(page["keys"]) == sorted(keys)
    for i, up in enumerate(page["up"]):
        assert up == sorted(set(up))
        assert all(p < i for p in up)
        assert {page["keys"][p] for p in up} == parents[page["keys"][i]]
    assert compiled.header["edges"] == sum(map(len, parents.values()))


@given(st.integers(2, 25), st.randoms(use_true_random=False))
def test_ancestors_are_exactly_those_that_edges_reach(n: int, r: random.Random) -> None:
    """An ancestor reference is accepted if and only if a path of edges leads there."""
    up = [{j for j in range(i) if r.random() < 0.15} for i in range(n)]
    reach: list[set[int]] = []
    for i in range(n):
        reach.append(up[i].union(*(reach[j] for j in up[i])))
    node, other = r.randrange(n), r.randrange(n)
    g = Graph("g")
    for i in range(n):
        value = {"$ref": str(other), "ancestor": True}
        document: dict[str, Any] = g.document() if i else {"celeriac": 1, "name": "g", "nodes": []}
        document["nodes"].append(
            {"key": str(i), "executor": "x", "after": [str(j) for j in up[i]], "args": [value] if i == node else []}
        )
        g = Graph.from_document(document)
    if other in reach[node]:
        g.check()
    else:
        with pytest.raises(NotAnAncestor) as refused:
            g.check()
        assert (refused.value.node, refused.value.ancestor) == (str(node), str(other))


def test_many_different_ancestors_are_checked_in_batches() -> None:
    """Ten thousand nodes that each name another ancestor, more than fit into one batch of bits."""
    g = Graph("g")
    before: Any = None
    chain: list[Any] = []
    for i in range(10_000):
        far = {"far": chain[i // 2].out.of_ancestor()} if i > 2 else {}
        before = g.add("x", after=before or (), inputs=far)
        chain.append(before)
    g.check()
    g.add("x", key="outside", far=chain[9_999].out.of_ancestor(), near=chain[3])
    with pytest.raises(NotAnAncestor, match=r'^nodes\["outside"\]\.inputs\["far"\]'):
        g.check()


def test_a_quorum_needs_enough_upstream_nodes() -> None:
    """A quorum that can never be met is refused."""
    g = wired({"a": "", "b": ""})
    g.add("x", key="c", after=["a", "b"], trigger_rule="quorum(2)")
    g.check()
    g.add("x", key="d", after=["a", "b"], trigger_rule="quorum(3)")
    with pytest.raises(InvalidValue, match=r'nodes\["d"\]\.trigger_rule.*2 upstream'):
        g.check()


# --- contracts ------------------------------------------------------------------------------------------------

PAGE = {
    "type": "object",
    "properties": {
        "url": {"type": "string", "format": "uri"},
        "links": {"type": "array", "items": {"$ref": "#/$defs/Link"}},
        "meta": {"anyOf": [{"$ref": "#/$defs/Meta"}, {"type": "null"}]},
        "headers": {"type": "object", "additionalProperties": {"type": "string"}},
        "pair": {"type": "array", "prefixItems": [{"type": "integer"}, {"$ref": "#/$defs/Link"}], "maxItems": 2},
        "free": {},
        "any": True,
        "tree": {"$ref": "#/$defs/Tree"},
        "codes": {"type": "object", "patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": False},
        "mixed": {"allOf": [{"$ref": "#/$defs/Link"}, {"required": ["x"]}]},
        "loop": {"$ref": "#/$defs/Loop"},
        "elsewhere": {"$ref": "https://example.org/schema"},
    },
    "required": ["url"],
    "$defs": {
        "Link": {"type": "object", "properties": {"href": {"type": "string"}}},
        "Meta": {"type": "object", "properties": {"title": {"type": "string"}, "~a/b": {"type": "string"}}},
        "Tree": {"type": "object", "properties": {"left": {"$ref": "#/$defs/Tree"}, "value": {"type": "integer"}}},
        "Loop": {"$ref": "#/$defs/Loop"},
    },
}
INPUT = {
    "type": "object",
    "properties": {
        "url": {"type": "string"},
        "depth": {"type": "integer"},
        "ratio": {"type": "number"},
        "mode": {"enum": ["a", "b"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "filter": {"anyOf": [{"$ref": "#/$defs/Filter"}, {"type": "null"}]},
        "extra": {},
    },
    "required": ["url"],
    "$defs": {
        "Filter": {
            "type": "object",
            "properties": {"min": {"type": "integer"}},
            "required": ["min"],
            "additionalProperties": False,
        }
    },
}
CONTRACTS: dict[str, dict[str, Any]] = {
    "fetch": {"v": 1, "name": "fetch", "input_schema": INPUT, "output_schema": PAGE},
    "plain": {"v": 1, "name": "plain", "input_schema": None, "output_schema": None},
    "text": {"v": 1, "name": "text", "input_schema": None, "output_schema": {"type": "string"}},
    "union": {
        "name": "union",
        "output_schema": {"oneOf": [{"type": ["integer", "null"]}, {"properties": {"a": {}}, "type": "object"}]},
    },
}


def reading(executor: str, *path: str | int) -> Graph:
    """A node of that executor, and one that reads the path of its output."""
    g = Graph("g")
    part = g.add(executor, key="a", inputs={"url": "u"} if executor == "fetch" else {}).out
    for step in path:
        part = part[step]
    g.add("plain", key="b", rows=[0, part])
    return g


@pytest.mark.parametrize(
    "path",
    [
        (),
        ("url",),
        ("links", 7, "href"),
        ("meta", "title"),
        ("meta", "~a/b"),
        ("headers", "anything"),
        ("pair", 1, "href"),
        ("free", "x", 3),
        ("any", 0, "x"),
        ("tree", *["left"] * 40, "value"),
        ("codes", "x-1"),
        ("mixed", "whatever"),
        ("loop", "x"),
        ("elsewhere", "x"),
    ],
    ids=str,
)
def test_paths_that_the_output_may_have_pass(path: tuple[str | int, ...]) -> None:
    """Objects, arrays, unions, open maps, recursion; what the schema leaves open is left to the run."""
    reading("fetch", *path).check(contracts=CONTRACTS)
    reading("plain", *path).check(contracts=CONTRACTS)


@pytest.mark.parametrize(
    ("executor", "path", "step", "words"),
    [
        ("fetch", ("ulr",), 0, "Did you mean 'url'"),
        ("fetch", ("url", "x"), 1, "string has no field 'x'"),
        ("fetch", ("url", 0), 1, "string has no item 0"),
        ("fetch", (0,), 0, "object has no item 0"),
        ("fetch", ("links", "href"), 1, "array has no field 'href'"),
        ("fetch", ("links", 0, "hrfe"), 2, "Did you mean 'href'"),
        ("fetch", ("meta", "titel"), 1, "there is no field 'titel'"),
        ("fetch", ("headers", "a", "b"), 2, "string has no field"),
        ("fetch", ("pair", 2), 1, "at most 2"),
        ("fetch", ("pair", 0, "x"), 2, "integer has no field"),
        ("fetch", ("tree", "left", "right"), 2, "there is no field 'right'"),
        ("fetch", ("codes", "y-1"), 1, "there is no field"),
        ("text", ("x",), 0, "string has no field"),
        ("union", ("b",), 0, "there is no field 'b'"),
        ("union", (0,), 0, "has no item 0"),
    ],
)
def test_paths_that_the_output_cannot_have_are_refused(
    executor: str, path: tuple[str | int, ...], step: int, words: str
) -> None:
    """Where the reference stands, what the output is, and the closest name."""
    with pytest.raises(PathNotInOutput) as refused:
        reading(executor, *path).check(contracts=CONTRACTS)
    assert refused.value.at == 'nodes["b"].inputs["rows"][1]'
    assert (refused.value.node, refused.value.path, refused.value.step) == ("a", path, step)
    assert words in str(refused.value)
    reading(executor, *path).check()


def test_a_schema_of_endless_alternatives_is_given_up_on() -> None:
    """A contract comes over the wire; one made to explode costs little and refuses nothing."""
    endless = {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}
    wide = {"$defs": {"a": {"type": "object", "properties": {"x": {"anyOf": [{"$ref": "#/$defs/a"}] * 50}}}},
            "$ref": "#/$defs/a"}  # fmt: skip
    both: dict[str, Any] = {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}
    odd: list[Any] = [{"$ref": 7}, {"$ref": "#/nowhere"}, [], 7, {"type": 7, "properties": 7}]
    for schema in (endless, wide, both, *odd):
        g = Graph("g")
        g.add("fetch", inputs={"v": [[1]]})
        g.check(contracts={"fetch": {"input_schema": {"properties": {"v": schema}}}})
        reading("fetch", *["x"] * 30).check(contracts={**CONTRACTS, "fetch": {"output_schema": schema}})


@pytest.mark.parametrize(
    "inputs",
    [
        {"url": "u"},
        {"url": "u", "depth": 3, "ratio": 1, "mode": "a", "tags": ["x"], "filter": {"min": 1}, "extra": {"a": [1]}},
        {"url": "u", "depth": 3.0, "ratio": 1.5, "filter": None},
    ],
)
def test_inputs_that_the_contract_allows_pass(inputs: dict[str, Any]) -> None:
    """Literals by type; references may be anything, wherever they stand."""
    g = Graph("g")
    a = g.add("plain", key="a")
    g.add("fetch", inputs=inputs)
    g.add("fetch", inputs={**inputs, "tags": [a, "x"], "depth": a.out.x, "filter": {"min": a}})
    g.add("fetch", args=["u"])
    g.add("plain", inputs={"whatever": 1})
    g.check(contracts=CONTRACTS)


@pytest.mark.parametrize(
    ("inputs", "at", "words"),
    [
        ({}, "", "the input 'url' is missing"),
        ({"ulr": "u"}, '["ulr"]', "Did you mean 'url'"),
        ({"url": 3}, '["url"]', "3 is an integer, not string"),
        ({"url": "u", "dpeth": 3}, '["dpeth"]', "Did you mean 'depth'"),
        ({"url": "u", "depth": True}, '["depth"]', "a boolean, not integer"),
        ({"url": "u", "depth": "3"}, '["depth"]', "text, not integer"),
        ({"url": "u", "depth": 1.5}, '["depth"]', "not integer"),
        ({"url": "u", "mode": "c"}, '["mode"]', "not one of 'a', 'b'"),
        ({"url": "u", "tags": ["x", None]}, '["tags"][1]', "null, not string"),
        ({"url": "u", "filter": {"min": "1"}}, '["filter"]["min"]', "not integer"),
        ({"url": "u", "filter": {}}, '["filter"]', "the field 'min' is missing"),
        ({"url": "u", "filter": {"min": 1, "mni": 2}}, '["filter"]["mni"]', "there is no field"),
        ({"url": "u", "filter": 3}, '["filter"]', "null or object"),
    ],
)
def test_inputs_that_the_contract_forbids_are_refused(inputs: dict[str, Any], at: str, words: str) -> None:
    """Names the input, what it is and what was wanted."""
    g = Graph("g")
    g.add("fetch", key="a", inputs=inputs)
    with pytest.raises(InputMismatch) as refused:
        g.check(contracts=CONTRACTS)
    assert refused.value.at == f'nodes["a"].inputs{at}'
    assert words in str(refused.value)
    g.check()


def test_unknown_executors_and_classes_are_refused_when_known_ones_are_published() -> None:
    """Without published contracts nothing is known, so the node waits and says why."""
    g = Graph("g")
    g.add("fetsh", key="a", queue_class="fast")
    g.check()
    g.check(contracts={})
    with pytest.raises(UnknownExecutor, match=r'^nodes\["a"\]\.executor.*Did you mean .fetch'):
        g.check(contracts=CONTRACTS)
    with pytest.raises(UnknownClass, match=r'^nodes\["a"\]\.queue_class.*batch-high, standard-low'):
        g.check(classes={"standard-low", "batch-high"})
    g.check(classes=["fast"])


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Schemas around schemas, every keyword also with a value that it should not have."""
    several, named = st.lists(inner, max_size=3) | inner, st.dictionaries(st.sampled_from(["a", "b"]), inner) | inner
    keywords = {
        "type": st.sampled_from(["object", "array", ["null", "object"], 3]),
        "patternProperties": inner | st.just({"(": {}}),
        "$ref": inner | st.just("#"),
        **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems", "enum"), several),
        **dict.fromkeys(("items", "additionalProperties", "required", "const", "maxItems"), inner),
        "properties": named,
    }
    return st.fixed_dictionaries({}, optional=keywords)


@given(st.recursive(st.sampled_from([{}, True, False, None, 7, "x", {"type": "object"}, {"$ref": "#"}]), _schemas))
def test_no_published_schema_breaks_the_check(schema: Any) -> None:
    """Contracts are what some worker sent: whatever they hold, a graph passes or gets a GraphError."""
    g = Graph("g")
    a = g.add("x", key="a", inputs={"a": {"b": [1, None, {"a": "x"}]}, "b": 3})
    g.add("x", key="b", a=a.out.a[0].b)
    with contextlib.suppress(GraphError):
        g.check(contracts={"x": {"input_schema": schema, "output_schema": schema}})
