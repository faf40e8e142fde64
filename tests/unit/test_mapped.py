"""Mappers in graphs: how references name them, what is compiled, what is refused, and what a message holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from scheduler.core.inputs import mappers_at, resolve
from scheduler.core.mappers import MOST_CHARACTERS, MappingError, mappers_of
from scheduler.core.mapping import Mappings
from scheduler.core.run import GRAPH_FORMAT, Run, references
from scheduler.core.states import NodeState
from scheduler.errors import (
    ExpressionError,
    GraphError,
    HandleMisused,
    InputMismatch,
    InvalidValue,
    PathNotInOutput,
    UnknownMapper,
)
from scheduler.graph import Graph, Retry, changed, other
from scheduler.service.aside import MOST_MAPPED_BYTES, fetcher

MAPPERS = {
    "order_to_invoice@1": {"lines": "it.items", "total": "it.net * 1.2"},
    "sku@2": "it.sku",
    "why@1": "it.kind + ': ' + it.message",
}


def shop() -> Graph:
    """An order that becomes an invoice, whole and in parts, and its failure a text."""
    g = Graph("shop")
    order = g.add("shop.order", key="order")
    g.add(
        "shop.invoice",
        key="invoice",
        args=[order.out.items[0].via("sku@2")],
        invoice=order.via("order_to_invoice@1"),
        deep={"why": [order.error.via("why@1")], "plain": order.out.net},
    )
    return g


# --- writing ----------------------------------------------------------------------------------------------------


def test_a_reference_says_which_mapper_its_value_goes_through() -> None:
    """By the handle, a part of the output, the error, and an ancestor's; the edge is the same as without."""
    g = shop()
    node = g.document()["nodes"][1]
    assert node["args"] == [{"$ref": "order", "path": ["items", 0], "via": "sku@2"}]
    assert node["inputs"]["invoice"] == {"$ref": "order", "via": "order_to_invoice@1"}
    assert node["inputs"]["deep"]["why"] == [{"$ref": "order", "of": "error", "via": "why@1"}]
    assert g.compile().header["edges"] == 1
    g.add("x", key="far", after="invoice", v=g.node("order").out.net.of_ancestor().via("a@1"))
    g.add("x", key="far too", after="invoice", v=g.node("order").via("a@1").of_ancestor())
    far, too = (it["inputs"]["v"] for it in g.document()["nodes"][2:])
    assert far == {"$ref": "order", "ancestor": True, "path": ["net"], "via": "a@1"}
    assert too == {"$ref": "order", "ancestor": True, "via": "a@1"}
    assert g.compile().header["edges"] == 3
    assert repr(g.node("order").out.items.via("a@1")) == 'nodes["order"].out.items.via("a@1")'


def test_python_json_and_yaml_have_one_form_and_one_hash() -> None:
    """The round trip keeps the mapper; without it, and with another, it is another graph."""
    g = shop()
    assert Graph.from_json(g.to_json()).to_json() == g.to_json()
    assert Graph.from_yaml(g.to_yaml()).hash == Graph.from_document(g.document()).hash == g.hash
    hashes = {g.hash}
    for change in ("order_to_invoice@2", "other@1", None):
        document = g.document()
        reference = document["nodes"][1]["inputs"]["invoice"]
        reference["via"] = change
        if change is None:
            del reference["via"]
        hashes.add(Graph.from_document(document).hash)
    assert len(hashes) == 4


def test_a_graph_without_mappers_stays_as_it_was() -> None:
    """Its hash, its compiled form and the version that it asks for are those of before."""
    g = Graph("g")
    a = g.add("x", key="a")
    g.add("y", key="b", v=a.out.via_is_a_field, w=a.out["via"])
    compiled = g.compile(mappers={})
    assert g.hash == "f21678901f6de0427561f88ae20a5de9"
    assert (compiled.header["v"], "min_reader" in compiled.header, "mappers" in compiled.header) == (1, False, False)
    assert json.loads(compiled.page(0, 2))["inputs"][1][1::2] == [
        [0, ["via_is_a_field"], "output"],
        [0, ["via"], "output"],
    ]


@pytest.mark.parametrize(
    "misuse",
    [
        lambda g, it: it.via("b@1"),
        lambda g, it: it.field,
        lambda g, it: it["field"],
        lambda g, it: it[0],
        lambda g, it: it == 1,
        lambda g, it: it > g.node("a").out.x,
        lambda g, it: g.node("a").out.x + it,
        lambda g, it: ~it,
        lambda g, it: g.add("y", when=it),
        lambda g, it: g.node("a").when(it),
        lambda g, it: g.choice("route", {"x": it}, otherwise="y"),
        lambda g, it: g.stop_when(it),
        lambda g, it: g.add("y", after=it),
        lambda g, it: g.add("y", after=[it]),
        lambda g, it: g.returns(it),
        lambda g, it: bool(it),
        lambda g, it: f"{it}",
        lambda g, it: list(it),
    ],
)
def test_what_a_mapper_makes_is_an_input_and_nothing_else(misuse: Callable[[Graph, Any], Any]) -> None:
    """No condition, edge, result or further mapper takes it, nothing is picked from it; the error says what to do."""
    g = Graph("g")
    made = g.add("x", key="a").out.x.via("m@1")
    with pytest.raises((HandleMisused, InvalidValue), match=r'nodes\["a"\]\.out\.x\.via\("m@1"\)') as caught:
        misuse(g, made)
    assert str(caught.value).count(". ") >= 1
    assert g.keys == ("a",)


@pytest.mark.parametrize("name", ["m", "m@", "m@1234567", "", None, 7, "m@1\n", "x" * 101 + "@1"])
def test_a_mapper_s_name_is_checked_where_it_is_written(name: Any) -> None:
    """In Python and in documents."""
    g = Graph("g")
    a = g.add("x", key="a")
    with pytest.raises(InvalidValue, match=r'nodes\["a"\]\.out\.via.*is no name of a mapper'):
        a.via(name)
    nodes = [{"key": "a", "executor": "x"}, {"key": "b", "executor": "x", "inputs": {"v": {"$ref": "a", "via": name}}}]
    with pytest.raises(InvalidValue, match=r'nodes\["b"\]\.inputs\["v"\]\["via"\].*is no name of a mapper'):
        Graph.from_document({"celeriac": 1, "name": "g", "nodes": nodes})


# --- compiling ---------------------------------------------------------------------------------------------------


def test_the_header_lists_the_mappers_and_asks_for_a_reader_that_knows_them() -> None:
    """Each once, sorted, those of steps of ladders too; the fourth element of a reference is the name."""
    g = shop()
    order = g.node("order")
    g.add("x", key="again", v=1, retry=Retry(steps=[changed({"v": order.via("step@1")}), other("y")]))
    compiled = g.compile()
    assert compiled.header["mappers"] == ["order_to_invoice@1", "sku@2", "step@1", "why@1"]
    assert compiled.header["v"] == compiled.header["min_reader"] == GRAPH_FORMAT == 4
    page = json.loads(compiled.page(0, 3))
    [inputs] = [it for it in page["inputs"] if isinstance(it, list)]
    assert inputs[1::2] == [
        [0, ["items", 0], "output", "sku@2"],
        [0, ["net"], "output"],
        [0, [], "error", "why@1"],
        [0, [], "output", "order_to_invoice@1"],
    ]
    run = Run.load("01jd0c0000000000000000000a", compiled.header, compiled.pages(), created_at_ms=0)
    assert list(references(run.inputs[1])) == [0, 0, 0, 0]
    assert run.mappers == {}
    with pytest.raises(ValueError, match="this version reads up to"):
        Run.load("01jd0c0000000000000000000a", {**compiled.header, "min_reader": 5}, (), created_at_ms=0)


def test_mappers_that_nobody_has_deployed_are_refused_where_the_definitions_are_known() -> None:
    """With the nearest name and the place, steps of ladders included; where nobody knows, nothing is refused."""
    g = shop()
    g.check()
    g.check(mappers=MAPPERS)
    with pytest.raises(
        UnknownMapper, match=r'nodes\["invoice"\]\.inputs\["invoice"\].*Did you mean .order_to_invoice@2'
    ):
        g.check(mappers={"order_to_invoice@2": "it", "sku@2": "it", "why@1": "it"})
    with pytest.raises(UnknownMapper, match=r'nodes\["invoice"\]\.args\[0\]'):
        g.check(mappers={})
    g.add("x", key="again", v=1, retry=Retry(steps=[changed({"v": g.node("order").via("step@1")})]))
    with pytest.raises(UnknownMapper, match=r'nodes\["again"\]\.retry\.steps\[1\]\.inputs\["v"\]'):
        g.check(mappers=MAPPERS)


def test_only_definitions_that_are_used_are_read() -> None:
    """One that is broken is told when a graph uses it, at its place."""
    g = shop()
    g.check(mappers={**MAPPERS, "broken@1": 7})
    with pytest.raises(InvalidValue, match=r'mappers\["sku@2"\]: 7 is no expression'):
        g.check(mappers={**MAPPERS, "sku@2": 7})


ITEM = {"type": "object", "properties": {"sku": {"type": "string"}, "n": {"type": "integer"}}}
CONTRACTS: Mapping[str, Mapping[str, Any]] = {
    "shop.order": {
        "output_schema": {
            "type": "object",
            "properties": {"items": {"type": "array", "items": {"$ref": "#/$defs/item"}}, "net": {"type": "number"}},
            "$defs": {"item": ITEM},
        }
    },
    "shop.invoice": {
        "input_schema": {
            "properties": {
                "invoice": {
                    "type": "object",
                    "properties": {"lines": {"type": "array"}, "total": {"type": "number"}, "to": {"type": "object"}},
                    "required": ["total"],
                    "additionalProperties": False,
                },
                "deep": {},
            },
        }
    },
    "silent": {},
}


def test_what_a_mapper_reads_is_compared_with_what_the_producer_publishes() -> None:
    """Through a path of the reference and the schema's own references; the error names mapper, field and producer."""
    g = shop()
    g.check(contracts=CONTRACTS, mappers=MAPPERS)
    with pytest.raises(ExpressionError) as caught:
        g.check(contracts=CONTRACTS, mappers={**MAPPERS, "sku@2": {"code": "it.skuu"}})
    said = str(caught.value)
    assert said.startswith('nodes["invoice"].args[0]["via"]: the expression \'it.skuu\' at character 3')
    assert "there is no field 'skuu' (mapper sku@2, field code, of nodes[\"order\"].out.items[0]" in said
    assert "Did you mean 'sku'" in said
    for wrong in ("it.n + 'x'", "it.sku * 2", "it.n.x", "it[0]", "has(it.n.x) ? 1 : it.m"):
        with pytest.raises(ExpressionError, match="mapper sku@2, of nodes"):
            g.check(contracts=CONTRACTS, mappers={**MAPPERS, "sku@2": wrong})
    g.check(contracts={**CONTRACTS, "shop.order": {}}, mappers={**MAPPERS, "sku@2": "it.anything"})


def test_a_path_that_the_producer_cannot_have_is_told_first() -> None:
    """The reference is wrong then, and not the mapper."""
    g = Graph("g")
    order = g.add("shop.order", key="order")
    g.add("silent", v=order.out.itms[0].via("sku@2"))
    with pytest.raises(PathNotInOutput, match="Did you mean 'items'"):
        g.check(contracts=CONTRACTS, mappers=MAPPERS)


def test_producers_that_are_no_single_executor_are_checked_as_far_as_they_are_known() -> None:
    """Each executor of a ladder must give what is read, one of a capability, a choice its branch; errors may be any."""
    outputs = {"type": "object", "properties": {"branch": {"type": "string"}}, "additionalProperties": False}
    contracts: dict[str, Mapping[str, Any]] = {
        "one": {"capabilities": ["do"], "output_schema": outputs},
        "two": {"capabilities": ["do"], "output_schema": ITEM},
        "good": {"output_schema": ITEM},
        "bad": {"output_schema": outputs},
    }
    mappers = {"sku@1": "it.sku", "branch@1": "it.branch", "kind@1": "it.anything", "none@1": "it.none"}

    def graph(executor: str, name: str, **options: Any) -> Graph:
        g = Graph("g")
        g.add("good", v=g.add(executor, key="a", **options).via(name))
        return g

    graph("good", "sku@1").check(contracts=contracts, mappers=mappers)
    with pytest.raises(ExpressionError, match="there is no field 'sku'"):
        graph("good", "sku@1", retry=Retry(steps=[other("bad")])).check(contracts=contracts, mappers=mappers)
    for name in ("sku@1", "branch@1"):
        graph("capability:do", name).check(contracts=contracts, mappers=mappers)
    with pytest.raises(ExpressionError, match="there is no field 'none'"):
        graph("capability:do", "none@1").check(contracts=contracts, mappers=mappers)
    for name, fits in (("branch@1", True), ("sku@1", False)):
        g = Graph("g")
        route = g.choice("route", {"x": "true"}, otherwise="y")
        g.add("good", v=route.via(name))
        if fits:
            g.check(contracts=contracts, mappers=mappers)
        else:
            with pytest.raises(ExpressionError, match="there is no field 'sku'"):
                g.check(mappers=mappers)
    g = Graph("g")
    g.add("good", trigger_rule="all_done", v=g.add("good", key="a").error.via("kind@1"))
    g.check(contracts=contracts, mappers=mappers)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"lines": "it.items"}, "the field 'total' is missing"),
        ({"total": "it.net", "sum": "it.net"}, "there is no field 'sum'"),
        ({"total": {"x": "it.net"}}, "is an object, not number"),
        ({"total": "it.net", "to": {"who": "it.net"}}, None),
        ("it", None),
    ],
)
def test_the_names_of_what_comes_out_are_compared_with_what_the_consumer_takes(record: Any, said: str | None) -> None:
    """An object that lacks a required field, or has one too many; the values themselves are the worker's to check."""
    g = shop()
    mappers = {**MAPPERS, "order_to_invoice@1": record}
    if said is None:
        g.check(contracts=CONTRACTS, mappers=mappers)
        return
    with pytest.raises(InputMismatch, match=said) as caught:
        g.check(contracts=CONTRACTS, mappers=mappers)
    assert 'nodes["invoice"].inputs["invoice"]' in str(caught.value)
    assert "the mapper that gives it" in str(caught.value)


# --- what a message holds ----------------------------------------------------------------------------------------


def loaded(graph: Graph, mappers: Mapping[str, Any] = MAPPERS) -> Run:
    """A run of a graph of which every node has succeeded, but for the last."""
    compiled = graph.compile()
    run = Run.load("01jd0c0000000000000000000a", compiled.header, compiled.pages(), created_at_ms=0)
    run.mappers = mappers_of(mappers)
    for node in range(run.n - 1):
        run.state[node] = NodeState.SUCCEEDED
        run.output_kind[node] = ord("i")
    return run


def made(run: Run, *outputs: Any, strict: bool = True) -> Any:
    """[args, kwargs] of the last node's message; no output lies aside here, so no store is asked."""
    values = {node: json.dumps(it).encode() for node, it in enumerate(outputs)}
    text, deferred = resolve(run, run.inputs[-1], values, Mappings(fetcher(cast("Any", None)), strict=strict))
    assert deferred == []
    assert text.encode()
    return json.loads(f"[{text}]")


def test_what_comes_out_stands_where_the_reference_did() -> None:
    """After the path has picked; others beside it stay as they were, and an error that is not there is null."""
    args, kwargs = made(loaded(shop()), {"items": [{"sku": "é✓", "n": 2}], "net": 10})
    assert args == ["é✓"]
    assert kwargs == {
        "invoice": {"lines": [{"sku": "é✓", "n": 2}], "total": 12.0},
        "deep": {"why": [None], "plain": 10},
    }


def test_an_error_record_may_be_mapped() -> None:
    """For nodes that mend failures; the outputs that are not there are null, and no mapper is asked."""
    run = loaded(shop())
    run.state[0] = NodeState.FAILED
    args, kwargs = made(run, {"kind": "permanent", "message": "no"})
    assert (args, kwargs["invoice"], kwargs["deep"]["why"]) == ([None], None, ["permanent: no"])


def test_what_a_mapper_makes_is_data() -> None:
    """What looks like a reference or a secret in it is neither, and half a surrogate pair cannot break a message."""
    g = Graph("g")
    g.add("y", v=g.add("x", key="a").via("all@1"), w=g.node("a").out.odd)
    odd = {"odd": "\ud800", "$ref": "a", "$secret": "s", "\udfff": ["\u0000ref0", "</script>"]}
    _, kwargs = made(loaded(g, {"all@1": "it"}), odd)
    assert kwargs == {"v": odd, "w": "\ud800"}


@pytest.mark.parametrize(
    ("mappers", "output", "kind", "said"),
    [
        (
            {},
            {},
            "unknown",
            r"order.output.items\[0\] by mapper sku@2: the run has no mapper",
        ),
        (
            {**MAPPERS, "sku@2": "it.sku"},
            {"items": []},
            "type",
            r"order.output.items\[0\] by mapper sku@2: it.sku: it is null",
        ),
        (
            MAPPERS,
            {"items": [{"sku": 1}]},
            "missing",
            r"order.output by mapper order_to_invoice@1, field total: it.net \* 1.2",
        ),
        (MAPPERS, [], "type", r"it is null and has no field .sku. \(it = null\)"),
    ],
)
def test_an_input_that_cannot_be_made_is_told(mappers: Any, output: Any, kind: str, said: str) -> None:
    """Which node's output, which mapper and field, what was met; who only shows inputs sees the error in its place."""
    run = loaded(shop(), mappers)
    with pytest.raises(MappingError, match=said) as caught:
        made(run, output)
    assert caught.value.kind == kind
    args, kwargs = made(run, output, strict=False)
    assert "by mapper" in str([args, kwargs])


def test_a_missing_mapper_is_told_with_those_that_are_there() -> None:
    """The run's own mappers are all there is; of many some are named."""
    output = {"items": [{"sku": 1}], "net": 1}
    with pytest.raises(MappingError, match=r"the run has no such mapper, only sku@1\. Deploy the mapper"):
        made(loaded(shop(), {"sku@1": "it.sku"}), output)
    with pytest.raises(MappingError, match=r"only a@0, a@1, a@2, a@3, a@4 and 2 more\. "):
        made(loaded(shop(), {f"a@{i}": "it" for i in range(7)}), output)


def test_the_mappers_of_one_message_share_what_they_may_cost() -> None:
    """Each reference alone would pass; so many of them would hold up the scheduler."""
    g = Graph("g")
    sources = [g.add("x", key=f"a{i}") for i in range(30)]
    g.add("y", v=[it.via("all@1") for it in sources])
    large = ["x" * (MOST_CHARACTERS - 1_000)]
    run = loaded(g, {"all@1": "it"})
    with pytest.raises(MappingError, match="the mappers of this node's inputs cost more than is allowed") as caught:
        made(run, *[large] * 30)
    assert caught.value.kind == "limit"
    assert made(run, *[large] * 5, *[["x"]] * 25)
    assert MOST_MAPPED_BYTES >= MOST_CHARACTERS


def test_an_output_that_cannot_be_read_is_no_accident() -> None:
    """What is no JSON, or nested too deep, fails the node and not the loop."""
    g = Graph("g")
    g.add("y", v=g.add("x", key="a").via("all@1"))
    for raw in (b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(MappingError, match="the output is no JSON that can be read"):
            resolve(loaded(g, {"all@1": "it"}), loaded(g).inputs[1], {0: raw}, Mappings(fetcher(cast("Any", None))))


def test_inputs_that_are_mapped_are_named_to_whoever_shows_them() -> None:
    """Input by name -> its mappers; plain inputs and other references are left out."""
    g = Graph("g")
    a = g.add("x", key="a")
    g.add("y", key="b", v=a.via("m@1"), w=[a, {"x": a.out.n.via("n@1"), "y": a.via("m@1")}], u=a, t="text")
    g.add("y", key="c", t="text")
    run = loaded(g)
    assert mappers_at(run.inputs[1]) == {"v": ["m@1"], "w": ["n@1", "m@1"]}
    assert mappers_at(run.inputs[2]) == {}


def test_every_error_of_a_graph_is_one() -> None:
    """A client that catches GraphError catches these too."""
    assert issubclass(UnknownMapper, GraphError)
    assert UnknownMapper("a@1", "x").mapper == "a@1"


def test_what_many_messages_ask_alike_is_made_once() -> None:
    """A fan-out reads and maps its value once a turn, also one that fails, however it does."""
    g = Graph("g")
    a = g.add("x", key="a")
    for i in range(3):
        g.add("y", key=f"n{i}", v=a.via("all@1"), w=a.out.x.via("sku@1"))
    run = loaded(g, {"all@1": "it", "sku@1": "it.sku"})
    mappings = Mappings(fetcher(cast("Any", None)))
    raw = b'{"x": {"sku": 1}}'
    first, _ = resolve(run, run.inputs[1], {0: raw}, mappings)
    run.mappers.clear()
    for node in (2, 3):
        assert resolve(run, run.inputs[node], {0: raw}, mappings)[0] == first
    costly = Graph("costly")
    costly.add("y", v=costly.add("x", key="a").via("much@1"))
    run = loaded(costly, {"much@1": "[it, it, it, it]"})
    slow, large = Mappings(fetcher(cast("Any", None))), json.dumps("x" * 400_000).encode()
    for _ in range(2):
        with pytest.raises(MappingError, match="come out"):
            resolve(run, run.inputs[1], {0: large}, slow)
        run.mappers.clear()
    run = loaded(g, {})
    failing = Mappings(fetcher(cast("Any", None)))
    for _ in range(2):
        with pytest.raises(MappingError, match=r"a.output by mapper all@1: the run has no mapper"):
            resolve(run, run.inputs[1], {0: raw}, failing)
