"""Mappers by themselves: what they make of a value, what they refuse, and which of them say the same."""

from __future__ import annotations

import doctest
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core import mappers
from scheduler.core.expressions import Purse
from scheduler.core.mappers import (
    MOST_CHARACTERS,
    MOST_FIELDS,
    MOST_LEVELS,
    Mapper,
    MappingError,
    duplicates,
    mapper_name,
    mappers_of,
)
from scheduler.errors import ExpressionError, GraphError, InvalidValue

ORDER = {
    "items": [{"sku": "a", "n": 2}, {"sku": "b", "n": 1}],
    "net": 1_000.0,
    "customer": {"name": "Ann Ünal", "vip": True},
    "note": None,
    "big": 2**70,
}
INVOICE = {"lines": "it.items", "total": "it.net * 1.2", "urgent": "it.net >= 1000 && has(it.customer.vip)"}


def mapper(record: Any, name: str = "m@1") -> Mapper:
    """A mapper of this test's own."""
    return Mapper.from_record(name, record)


def test_the_docstrings_run() -> None:
    """The examples in the module are true."""
    assert doctest.testmod(mappers).failed == 0


@pytest.mark.parametrize(
    ("record", "made"),
    [
        (INVOICE, {"lines": ORDER["items"], "total": 1_200.0, "urgent": True}),
        ("it.customer.name", "Ann Ünal"),
        ("it", ORDER),
        ("it.items[1].sku", "b"),
        ("it.customer['name'] + '!'", "Ann Ünal!"),
        ("size(it.items)", 2),
        ("it.note", None),
        ("it.big", 2**70),
        ("has(it.vip) ? it.vip : false", False),
        ("[it.net, it.items[0].n]", [1_000.0, 2]),
        ("'constant'", "constant"),
        ({"to": {"who": {"name": "it.customer.name"}}, "n": "1"}, {"to": {"who": {"name": "Ann Ünal"}}, "n": 1}),
        ({"a b": "it.net"}, {"a b": 1_000.0}),
    ],
)
def test_a_mapper_makes_of_a_value_what_its_expressions_say(record: Any, made: Any) -> None:
    """Whole objects and lists, numbers, text, truth and null come out, twice the same; the value stays as it was."""
    before = json.dumps(ORDER)
    it = mapper(record)
    assert it.apply(ORDER) == made
    assert it.apply(ORDER) == made
    assert json.dumps(ORDER) == before


@pytest.mark.parametrize("value", [None, True, 0, 1.5, "text", [1, 2]])
def test_any_json_may_be_mapped(value: Any) -> None:
    """`it` need not be an object."""
    assert mapper({"all": "it", "null": "it == null"}).apply(value) == {"all": value, "null": value is None}


@pytest.mark.parametrize(
    ("record", "value", "kind", "said"),
    [
        (
            INVOICE,
            {"items": []},
            "missing",
            'mapper m@1, field total: it.net * 1.2: it has no field "net" (it = {"items',
        ),
        (INVOICE, {"items": 1, "net": "x"}, "type", "field total: it.net * 1.2: string * double is not defined"),
        ("it.a.b", {"a": []}, "type", 'mapper m@1: it.a.b: it.a is list and has no field "b" (it.a = [])'),
        ("it.a", None, "type", 'mapper m@1: it.a: it is null and has no field "a" (it = null)'),
        ({"x": {"y z": "it.n / 0"}}, {"n": 1}, "number", 'field x["y z"]: it.n / 0:'),
        ("1 / 0", {"n": 1}, "number", '(it = {"n": 1})'),
        ("it.n", {"n": float("inf")}, "number", "inf is no number in JSON"),
        ("it.n", {"n": [{"x": float("nan")}]}, "number", "nan is no number in JSON"),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_mapper_field_expression_and_value(
    record: Any, value: Any, kind: str, said: str
) -> None:
    """Whoever reads the error knows what to correct; it pickles, and says on demand where the value came from."""
    with pytest.raises(MappingError) as caught:
        mapper(record).apply(value)
    failed = caught.value
    assert said in str(failed)
    assert (failed.mapper, failed.kind) == ("m@1", kind)
    assert failed.text in str(failed)
    assert str(failed.of("order.output")).startswith("order.output by mapper m@1")
    assert str(pickle.loads(pickle.dumps(failed))) == str(failed)
    assert vars(pickle.loads(pickle.dumps(failed))) == vars(failed)


def test_an_error_is_short_whatever_the_value() -> None:
    """A large value is cut, and text from outside cannot reach a terminal as it is."""
    with pytest.raises(MappingError) as caught:
        mapper({"x" * 256: "it.a.b"}).apply({"a": ["\x1b[31m" + "y" * 1_000_000] * 1_000})
    assert len(str(caught.value)) < 1_500
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "record",
    [
        {f"f{i}": "it" for i in range(MOST_FIELDS)},  # many times the value
        {
            "x": "it.list",
            "y": "it.list",
            "z": "it.list == it.list && it.list == it.list && it.list == it.list && it.list == it.list",
        },
        "it.text + it.text + it.text + it.text + it.text + it.text",
        "[it, it, it, it, it, it]",
    ],
)
def test_what_one_mapper_may_cost_is_bounded(record: Any) -> None:
    """Neither many fields nor comparisons nor copies get past the limit, and the error says so."""
    value = {"list": list(range(60_000)), "text": "x" * 300_000}
    with pytest.raises(MappingError, match="Map less of the value") as caught:
        mapper(record).apply(value)
    assert caught.value.kind == "limit"


def test_a_large_part_may_pass() -> None:
    """What is not more than the limit comes out whole."""
    part = ["x" * 1_000] * (MOST_CHARACTERS // 1_010)
    assert mapper({"part": "it.a"}).apply({"a": part}) == {"part": part}


def test_mappers_that_share_a_purse_are_bounded_together() -> None:
    """Each application takes from what is left, a mere read too."""
    purse = Purse(100)
    it = mapper({"a": "it.x", "b": "it.x + 1"})
    for _ in range(10):
        it.apply({"x": 1}, purse)
    assert 0 < purse.left < 100
    purse.left = 3
    with pytest.raises(MappingError, match="cost"):
        it.apply({"x": 1}, purse)
    with pytest.raises(MappingError, match="cost"):
        mapper("it.x").apply({"x": 1}, purse)


@pytest.mark.parametrize("name", ["a@1", "order_to.invoice-2@000001", "x" * 100 + "@999999"])
def test_a_name_has_a_version(name: str) -> None:
    """What edges and policies may write."""
    assert mapper_name(name, "at") == mapper("it", name).name == name


@pytest.mark.parametrize(
    "name", ["a", "a@", "@1", "a@1234567", "x" * 101 + "@1", "a b@1", "ü@1", "a@1\n", "a@1@1", "", 7, None]
)
def test_other_names_are_refused(name: Any) -> None:
    """With what was found and how to write one."""
    with pytest.raises(InvalidValue, match=r"is no name of a mapper. Write a name and a version, such as"):
        Mapper.from_record(name, "it")


def _nested(levels: int) -> Any:
    return {"x": _nested(levels - 1)} if levels else "it"


@pytest.mark.parametrize(
    ("record", "error", "said"),
    [
        (7, InvalidValue, r'mappers\["m@1"\]: 7 is no expression'),
        (None, InvalidValue, "None is no expression"),
        (["it"], InvalidValue, "is no expression"),
        ({}, InvalidValue, "holds no field"),
        ({"a": {}}, InvalidValue, r'mappers\["m@1"\]\["a"\]: {} holds no field'),
        ({"a": {"b": True}}, InvalidValue, r'mappers\["m@1"\]\["a"\]\["b"\]: True is no expression'),
        ({7: "it"}, InvalidValue, "7 is no name of a field"),
        ({"": "it"}, InvalidValue, "is no name of a field"),
        ({"x" * 257: "it"}, InvalidValue, "is no name of a field"),
        ({"\ud800": "it"}, InvalidValue, "is no name of a field"),
        ({"a": "it.("}, ExpressionError, r'mappers\["m@1"\]\["a"\]: the expression .it\.\(. at character 4'),
        ({"a": "order.output.x"}, ExpressionError, "there is no value 'order' here. Known: it"),
        ({"a": "nodes['a'].output"}, ExpressionError, "there is no value 'nodes' here"),
        ("import('os')", ExpressionError, "mappers"),
        (_nested(MOST_LEVELS + 1), InvalidValue, f"nested more than {MOST_LEVELS} levels"),
        ({f"f{i}": "it" for i in range(MOST_FIELDS + 1)}, InvalidValue, f"one expression more than {MOST_FIELDS}"),
    ],
)
def test_what_is_no_mapper_is_refused_at_its_place(record: Any, error: type[GraphError], said: str) -> None:
    """When it is deployed, and not when a run meets it."""
    with pytest.raises(error, match=said):
        mapper(record)


def test_the_deepest_and_widest_pass() -> None:
    """The limits themselves are allowed."""
    assert mapper(_nested(MOST_LEVELS)).apply(1)
    assert len(mapper({f"f{i}": "1" for i in range(MOST_FIELDS)}).apply(1)) == MOST_FIELDS


def test_a_policy_s_mappers_are_read_together() -> None:
    """By name; a place can be said for the errors; what is no object is refused."""
    found = mappers_of({"a@1": "it.x", "b@2": INVOICE})
    assert {name: it.name for name, it in found.items()} == {"a@1": "a@1", "b@2": "b@2"}
    assert found["a@1"] == mapper(" it . x ", "a@1")
    assert found["a@1"] != mapper("it.x", "a@2")
    assert mappers_of({}) == {}
    with pytest.raises(InvalidValue, match=r'policy.mappers\["a@1"\]'):
        mappers_of({"a@1": 1}, "policy.mappers")
    nothing: tuple[Any, ...] = (None, [], "it")
    for wrong in nothing:
        with pytest.raises(InvalidValue, match="is no object"):
            mappers_of(wrong)
    with pytest.raises(InvalidValue, match="more than 1,000"):
        mappers_of({f"a@{i}": "it" for i in range(1_001)})


def test_duplicates_are_found_whatever_their_order_and_spacing() -> None:
    """Two names for one meaning are a group; another field, expression or nesting is another meaning."""
    found = mappers_of(
        {
            "b@1": {"x": "it.a*2", "y": {"z": "it['b']", "w": "( it.c )"}},
            "a@1": {"y": {"w": "it.c", "z": "it.b"}, "x": " it.a * 2"},
            "a@2": {"y": {"w": "it.c", "z": "it.b"}, "x": "it.a * 3"},
            "flat@1": {"x": "it.a * 2", "w": "it.c", "z": "it.b"},
            "one@1": "it.name",
            "two@1": 'it["name"]',
            "three@7": "it . name",
            "field@1": {"name": "it.name"},
        }
    )
    assert duplicates(found.values()) == [["a@1", "b@1"], ["one@1", "three@7", "two@1"]]
    assert duplicates([]) == []


LEAVES = st.sampled_from(["it", "it.a", "it.b[0]", "1", "'x'", "size(it.a) > 1", "it.a + it.b"])
RECORDS = st.recursive(
    LEAVES, lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3), max_leaves=8
)


@given(RECORDS, RECORDS)
def test_the_canonical_form_says_all_of_a_mapper(one: Any, other: Any) -> None:
    """Read again it is the same; two are equal exactly when the records are, but for the order of fields."""
    first, second = mapper(one), mapper(other)
    assert mapper(json.loads(first.canonical)) == first
    assert (first.canonical == second.canonical) == (one == other)


def test_fields_and_shape_tell_what_comes_out() -> None:
    """Every expression with its place, and the names of what is made of them."""
    it = mapper({"a": "it.x", "b": {"c d": "1"}})
    assert [(field, expression.text) for field, expression in it.fields] == [("a", "it.x"), ('b["c d"]', "1")]
    assert it.shape(0) == {"a": 0, "b": {"c d": 0}}
    assert [field for field, _ in mapper("it").fields] == [""]
    assert mapper("it").shape("?") == "?"
