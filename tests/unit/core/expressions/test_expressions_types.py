"""The check before a run: what schemas say is taken at its word, and what is accepted fails for no reason of type."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.expressions import (
    EvaluationError,
    Expression,
    Read,
    binary,
    call,
    check,
    conditional,
    constant,
    follow,
    item,
    listed,
    parse,
    read,
    unary,
)
from scheduler.core.expressions.checking import STATES
from scheduler.core.expressions.values import word_of
from scheduler.core.states import NodeState
from scheduler.errors import ExpressionError
from scheduler.graph.contracts import Contracts

Schema = dict[str, Any]
PAGE: Schema = {
    "type": "object",
    "properties": {
        "score": {"type": "number"},
        "n": {"type": "integer"},
        "name": {"type": "string"},
        "ok": {"type": "boolean"},
        "none": {"type": "null"},
        "any": {},
        "never": False,
        "mode": {"enum": ["fast", "slow"]},
        "level": {"enum": [1, 2, 3]},
        "kind": {"const": "page"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "pair": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
        "few": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
        "maybe": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/inner"}]},
        "either": {"oneOf": [{"$ref": "#/$defs/inner"}, {"type": "array", "items": {"type": "integer"}}]},
        "nullable": {"type": ["string", "null"]},
        "wrapped": {"allOf": [{"$ref": "#/$defs/inner"}], "description": "as older pydantic writes it"},
        "both": {"allOf": [{"type": ["integer", "string"]}, {"type": ["string", "null"]}]},
        "open": {"type": "object", "properties": {"k": {"type": "integer"}}, "additionalProperties": True},
        "counts": {"type": "object", "additionalProperties": {"type": "integer"}},
        "loose": {"type": "object"},
        "matched": {
            "type": "object",
            "properties": {"k": {"type": "integer"}},
            "patternProperties": {"a{99999999999}": {"type": "integer"}},
        },
        "extended": {"properties": {"x": {"type": "integer"}}, "allOf": [{"$ref": "#/$defs/inner"}]},
        "maybe_n": {"type": ["integer", "null"]},
        "tree": {"$ref": "#/$defs/tree"},
        "loop": {"$ref": "#/$defs/loop"},
        "mode_or_none": {"anyOf": [{"enum": ["fast", "slow"]}, {"type": "null"}]},
    },
    "$defs": {
        "inner": {"type": "object", "properties": {"k": {"type": "boolean"}}},
        "tree": {"type": "object", "properties": {"below": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}},
        "loop": {"$ref": "#/$defs/loop"},
    },
}


def schema_of(node: str, what: str) -> Schema | None:
    """Node `a` gives a PAGE, of the others nothing is known."""
    return PAGE if (node, what) == ("a", "output") else None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("1", "int"),
        ("1.5", "double"),
        ("'x'", "string"),
        ("null", "null"),
        ("[1, 'x']", "list"),
        ("a.output", "map"),
        ("a.output.score", "double"),
        ("a.output.n", "int"),
        ("a.output.ok", "bool"),
        ("a.output.any", "any"),
        ("a.output.any.at.all[0]", "any"),
        ("a.output.mode", "string"),
        ("a.output.kind", "string"),
        ("a.output.tags", "list"),
        ("a.output.tags[7]", "string"),
        ("a.output.pair[0]", "int"),
        ("a.output.pair[1]", "string"),
        ("a.output.maybe", "any"),
        ("a.output.maybe.k", "bool"),
        ("a.output.either.k", "bool"),
        ("a.output.either[0]", "int"),
        ("a.output.wrapped.k", "bool"),
        ("a.output.both", "string"),
        ("a.output.both + 'x'", "string"),
        ("a.output.open.k", "int"),
        ("a.output.open.other", "any"),
        ("a.output.counts.whatever", "int"),
        ("a.output.loose.k", "any"),
        ("a.output.matched.k", "int"),
        ("a.output.matched.other", "any"),
        ("a.output.extended.q", "any"),
        ("a.output.tree.below[0].below[1].below", "list"),
        ("a.output.loop.k", "any"),
        ("a.state", "string"),
        ("a.attempts", "int"),
        ("a.error", "any"),
        ("a.error.kind", "string"),
        ("a.error.traceback", "any"),
        ("b.output.k", "any"),
        ("b.output.k > 1", "bool"),
        ("has(a.output.open.x)", "bool"),
        ("size(a.output.tags)", "int"),
        ("size(a.output.nullable)", "int"),
        ("a.output.n + 1", "int"),
        ("a.output.n + 0.5", "double"),
        ("a.output.score * 2", "double"),
        ("a.output.n % 2", "int"),
        ("-a.output.score", "double"),
        ("-a.output.maybe_n", "int"),
        ("a.output.name + 'x'", "string"),
        ("a.output.tags + [1]", "list"),
        ("(a.output.few + a.output.few)[3]", "int"),
        ("a.output.any + 1", "double"),
        ("a.output.any + b.output", "any"),
        ("(a.output.any + b.output)[0]", "any"),
        ("a.output.ok ? 1 : 'x'", "any"),
        ("a.output.ok ? 1 : 0.5", "double"),
        ("a.output.ok ? a.output.tags : []", "list"),
        ("(a.output.ok ? a.output.tags : [])[0]", "string"),
        ("(a.output.ok ? [1] : [2, 3])[0]", "int"),
        ("(a.output.ok ? a.output.maybe : a.error).k", "any"),
        ("a.output.tags[a.output.n]", "string"),
        ("a.output.pair[a.output.n]", "any"),
        ("a.output.counts[a.output.name]", "int"),
        ("a.output[a.output.name]", "any"),
        ("a.output.any[a.output.any]", "any"),
        ("[1, 2][0]", "int"),
        ("[1, 'x'][a.output.n]", "any"),
        # comparisons that may come true
        ("a.output.score > 1", "bool"),
        ("a.output.nullable == 'x'", "bool"),
        ("a.output.nullable < 'x'", "bool"),
        ("a.output.name == null", "bool"),
        ("a.output.mode == 'fast'", "bool"),
        ("a.output.mode != a.output.kind", "bool"),
        ("a.output.level == 2.0", "bool"),
        ("a.output.mode == null", "bool"),
        ("a.output.mode_or_none == null", "bool"),
        ("(a.output.ok ? a.output.mode : 'other') == 'other'", "bool"),
        ("a.output.maybe.k == true", "bool"),
        ("a.state in ['failed', 'cancelled']", "bool"),
        ("'x' in a.output.tags", "bool"),
        ("'k' in a.output.open", "bool"),
        ("a.output.n in []", "bool"),
        ("1.0 in a.output.few", "bool"),
        ("a.output.any in a.output.tags", "bool"),
    ],
)
def test_the_type_of_an_expression(text: str, word: str) -> None:
    """Unions, unknowns and operators; a number is a double, any other union is any."""
    assert check(parse(text), schema_of) == word


@pytest.mark.parametrize(
    ("text", "position", "problem", "remedy"),
    [
        # paths
        ("a.output.scor", 8, "there is no field 'scor'", "Did you mean 'score'?"),
        ("a.output.name.first", 13, "string has no field 'first'", "Correct the path"),
        ("a.output.n[0]", 10, "int has no item 0", "Correct the path"),
        ("a.output.tags.first", 13, "list has no field 'first'", "Correct the path"),
        ("a.output.tags[0].x", 16, "string has no field 'x'", "Correct the path"),
        ("a.output.pair[2]", 13, "there is no item 2", "Correct the path"),
        ("a.output.few[2]", 12, "there is no item 2 in a list of at most 2", "Correct the path"),
        ("a.output.maybe.q", 14, "there is no field 'q'", "The fields are 'k'."),
        ("a.output.either.q", 15, "there is no field 'q'", "The fields are 'k'."),
        ("a.output.wrapped.q", 16, "there is no field 'q'", "The fields are 'k'."),
        ("a.output.both.q", 13, "string has no field 'q'", "Correct the path"),
        ("a.output.none.q", 13, "null has no field 'q'", "Correct the path"),
        ("a.output.never", 8, "nothing", "Correct the path"),
        ("1 + a.output.tree.below[0].blow", 26, "there is no field 'blow'", "Did you mean 'below'?"),
        ("has(a.output.scor)", 12, "there is no field 'scor'", "Did you mean 'score'?"),
        ("a.output['k k']", 8, "there is no field 'k k'", "The fields are"),
        ("nodes['my-node'].error.kind[0]", 27, "string has no item 0", "Correct"),
        ("[][0]", 3, "list has no item 0", "Correct"),
        ("[1][-1]", 4, "there is no item -1", "size(x) - 1"),
        ("b.output[-1]", 9, "there is no item -1", "size(x) - 1"),
        ("b.output[true]", 9, "bool is no field and no item", "int for an item"),
        ("a.output.tags[a.output.name]", 0, "list stands where [] needs map", "Correct"),
        ("a.output[a.output.n]", 0, "map stands where [] needs list", "Correct"),
        ("1[b.output.i]", 0, "int stands where [] needs list or map", "Correct"),
        ("[][b.output.i]", 0, "never holds anything", "Correct"),
        # operators
        ("a.output.name > 1", 0, "string > int never fits", "one type"),
        ("true && a.output.name < a.output.score", 8, "string < double or int never fits", "one type"),
        ("a.output.nullable > 1", 0, "null or string > int never fits", "one type"),
        ("a.output.tags < a.output.tags", 0, "list < list never fits", "one type"),
        ("a.output.name + 1", 0, "string + int never fits", "one type"),
        ("a.output.name - 'x'", 0, "string - string never fits", "one type"),
        ("a.output.ok * 2", 0, "bool * int never fits", "one type"),
        ("1.5 % 2", 0, "double % int never fits", "one type"),
        ("a.output.name == 1", 0, "string == int never fits", "one type"),
        ("a.output.ok == 1", 0, "bool == int never fits", "one type"),
        ("a.output.tags != 'x'", 0, "list != string never fits", "one type"),
        ("1 in a.output.name", 0, "int in string never fits", "one type"),
        ("1 in a.output.open", 0, "int in map never fits", "one type"),
        ("1 in a.output.tags", 0, "int is never in a list of string", "one of its items"),
        ("a.output.n in ['1', '2']", 0, "int is never in a list of string", "one of its items"),
        ("a.output.name && true", 0, "string stands where && needs bool", "Correct"),
        ("true || a.output.n", 8, "int stands where || needs bool", "Correct"),
        ("!a.output.n", 1, "int stands where ! needs bool", "Correct"),
        ("a.output.n ? 1 : 2", 0, "int stands where ? needs bool", "Correct"),
        ("-a.output.name", 1, "string stands where - needs double or int", "Correct"),
        ("size(a.output.n)", 5, "int stands where size needs list or map or string", "Correct"),
        ("(a.output.tags + [1])[0] ? 1 : 2", 0, "int or string stands where ? needs bool", "Correct"),
        # values that a schema lists
        ("a.output.mode == 'fst'", 17, 'a.output.mode is never "fst"', "Did you mean 'fast'?"),
        ("'fst' != a.output.mode", 0, 'a.output.mode is never "fst"', "'fast', 'slow'"),
        ("a.output.kind == 'pages'", 17, 'a.output.kind is never "pages"', "'page'"),
        ("a.output.level == 4", 18, "a.output.level is never 4", "1, 2, 3"),
        ("a.output.mode_or_none == 'x'", 25, 'a.output.mode_or_none is never "x"', "'fast', 'slow', None"),
        ("a.state == 'suceeded'", 11, 'a.state is never "suceeded"', "Did you mean 'succeeded'?"),
        ("a.state in ['failed', 'skiped']", 22, 'a.state is never "skiped"', "Did you mean 'skipped'?"),
    ],
)
def test_what_can_never_fit_is_refused(text: str, position: int, problem: str, remedy: str) -> None:
    """With the place in the canonical text."""
    expression = parse(text)
    with pytest.raises(ExpressionError) as caught:
        check(expression, schema_of)
    error = caught.value
    assert problem in error.problem
    assert remedy in error.remedy
    assert (error.text, error.position) == (expression.text, position)


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("a.output.ok", True),
        ("a.output.any", True),
        ("b.output", True),
        ("a.output.n > 1", True),
        ("a.output.ok ? 1 : true", True),
        ("a.output.n", False),
        ("a.output.nullable", False),
        ("a.state", False),
    ],
)
def test_a_wanted_type_is_asked_for(text: str, fine: bool) -> None:
    """A guard must be a bool, or may be one."""
    if fine:
        check(parse(text), schema_of, want="bool")
    else:
        with pytest.raises(ExpressionError, match="and bool is needed"):
            check(parse(text), schema_of, want="bool")


def test_the_states_are_those_of_nodes() -> None:
    """The words that `.state` is checked against."""
    assert tuple(state.word for state in NodeState) == STATES


BROKEN: list[Any] = [
    *(True, [], 7, "x", None, {"type": 7}, {"type": ["x", []]}, {"type": []}, {"enum": "x"}, {"enum": []}),
    *({"properties": []}, {"items": 7}, {"prefixItems": 7}, {"maxItems": "x"}, {"$ref": 7}, {"$ref": "http://x/y"}),
    *({"$ref": "#"}, {"$ref": "#/no/where"}, {"anyOf": 7}, {"anyOf": []}, {"allOf": 7}, {"allOf": []}, {"not": 7}),
    *({"anyOf": [{"$ref": "#"}]}, {"allOf": [{"$ref": "#"}]}, {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}),
    *(
        {"additionalProperties": 7},
        {"const": {}},
        {"enum": [[], {}]},
        {"anyOf": [{"title": str(i)} for i in range(2_000)]},
        {"allOf": [{"$ref": "#"}] * 1_000},
        {
            "$defs": {"x": {"anyOf": [{"allOf": [{"$ref": "#/$defs/x"}] * 50}] * 50}},
            "allOf": [{"$ref": "#/$defs/x"}] * 50,
        },
    ),
]


@pytest.mark.parametrize("schema", BROKEN, ids=lambda it: repr(it)[:40])
def test_a_schema_that_cannot_be_understood_says_nothing(schema: Any) -> None:
    """Contracts come over the wire; nothing in them raises, and at worst nothing is known."""
    known: tuple[Schema, ...] = ({"const": {}}, {"enum": [[], {}]})  # a map; a list or a map
    for text in ("size(a.output)", "a.output.k", "a.output[0]", "a.output[b.output]", "a.output == 1"):
        assert is_accepted(parse(text), schema) or schema in known


def test_too_many_alternatives_say_nothing() -> None:
    """A check stays quick whatever a schema holds."""
    many = {"anyOf": [{"type": "integer", "maximum": i} for i in range(2_000)]}
    assert check(parse("a.output + 'x'"), lambda node, what: many) == "string"


# --- as the contracts of graphs read schemas -------------------------------------------------------------------

LEAVES: st.SearchStrategy[Any] = st.sampled_from(
    [{"type": it} for it in ("integer", "number", "string", "boolean", "null", "object", "array")]
    + [{}, {"type": ["string", "null"]}, {"enum": ["k", 1]}, {"const": None}, {"$ref": "#/$defs/one"}, {"$ref": "#"}]
)
SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(st.sampled_from(["k", "n"]), inner, max_size=2)},
            optional={"additionalProperties": st.one_of(st.booleans(), inner)},
        ),
        st.fixed_dictionaries(
            {"type": st.just("array"), "items": inner},
            optional={"prefixItems": st.lists(inner, max_size=2), "maxItems": st.integers(0, 2)},
        ),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)}),
    ),
    max_leaves=5,
)
STEPS = st.lists(st.sampled_from(["k", "n", 0, 1]), max_size=3)


@settings(max_examples=60)
@given(schema=SCHEMAS, one=SCHEMAS, path=STEPS)
def test_paths_are_judged_as_in_contracts(schema: Any, one: Any, path: list[str | int]) -> None:
    """A path that an input may have, an expression may have too, and no other."""
    root = {**schema, "$defs": {"one": one}}
    problem = Contracts({"x": {"output_schema": root}}).path_problem("x", tuple(path))
    assert (problem is None) == is_accepted(read("a", path=path), root)


def is_accepted(expression: Expression, schema: Any) -> bool:
    """Whether the check lets it pass."""
    try:
        check(expression, lambda node, what: schema if what == "output" else None)
    except ExpressionError:
        return False
    return True


# --- what is accepted fails for no reason of type --------------------------------------------------------------

COMPLETE: Schema = {
    "type": "object",
    "required": ["n", "s", "ok", "none", "ints", "texts", "counts", "inner", "rows"],
    "properties": {
        "n": {"type": "integer"},
        "s": {"type": "string"},
        "ok": {"type": "boolean"},
        "none": {"type": "null"},
        "ints": {"type": "array", "items": {"type": "integer"}},
        "texts": {"type": "array", "items": {"type": "string"}},
        "counts": {"type": "object", "additionalProperties": {"type": "integer"}},
        "inner": {"$ref": "#/$defs/inner"},
        "rows": {"type": "array", "items": {"$ref": "#/$defs/inner"}},
    },
    "$defs": {"inner": {"type": "object", "required": ["x"], "properties": {"x": {"type": "boolean"}}}},
}
INNER = st.fixed_dictionaries({"x": st.booleans()})
OUTPUTS = st.fixed_dictionaries(
    {
        "n": st.integers(-3, 3),
        "s": st.sampled_from(["", "k", "x"]),
        "ok": st.booleans(),
        "none": st.none(),
        "ints": st.lists(st.integers(-2, 2), max_size=3),
        "texts": st.lists(st.sampled_from(["", "k"]), max_size=3),
        "counts": st.dictionaries(st.sampled_from(["k", "x"]), st.integers(0, 2)),
        "inner": INNER,
        "rows": st.lists(INNER, max_size=2),
    }
)
PATHS: list[tuple[str | int, ...]] = [
    *(("n",), ("s",), ("ok",), ("none",), ("ints",), ("texts",), ("counts",), ("inner",), ("rows",), ("ints", 0)),
    *(("texts", 0), ("counts", "k"), ("inner", "x"), ("rows", 0, "x"), ("n", "x"), ("s", 0), ("ints", "k")),
    ("inner", "y"),
]
PARTS: st.SearchStrategy[Expression] = st.one_of(
    st.sampled_from(PATHS).map(lambda path: read("a", path=path)),
    st.sampled_from([0, 1, -1, 0.5, "k", "", True, False, None]).map(constant),
    st.sampled_from([read("a", "state"), read("a", "attempts"), parse("has(a.output.s)")]),
)
NAMES = ["||", "&&", "==", "<", ">=", "in", "+", "-", "*", "/", "%"]
ACCEPTABLE: st.SearchStrategy[Expression] = st.recursive(
    PARTS,
    lambda inner: st.one_of(
        st.builds(binary, st.sampled_from(NAMES), inner, inner),
        st.builds(binary, st.sampled_from(["&&", "==", "<", "+", "in"]), inner, inner),
        st.builds(unary, st.sampled_from("!-"), inner),
        st.builds(call, st.just("size"), inner),
        st.builds(conditional, inner, inner, inner),
        st.builds(item, st.sampled_from([read("a", path=[it]) for it in ("ints", "counts", "rows")]), inner),
        st.lists(inner, max_size=2).map(lambda items: listed(*items)),
        st.builds(item, st.lists(inner, max_size=2).map(lambda items: listed(*items)), inner),
    ),
    max_leaves=4,
)


def types_of(expression: Expression) -> set[str]:
    """The type of every part of an expression that is accepted; "refused" if it is not."""
    found = set()
    left = [expression.tree]
    while left:
        tree = left.pop()
        left.extend(getattr(tree, "args", ()))
        try:
            found.add(check(Expression("", (), tree), lambda node, what: COMPLETE if what == "output" else None))
        except ExpressionError:
            return {"refused"}
    return found


@settings(max_examples=100)
@given(expression=ACCEPTABLE, output=OUTPUTS)
def test_what_is_accepted_fails_for_no_reason_of_type(expression: Expression, output: Any) -> None:
    """Where each part has one type, only numbers, items that are not there and keys of open maps can go wrong."""
    types = types_of(expression)
    if types & {"refused", "any"} or ("double" in types and "%" in expression.text):
        return
    node = {"output": output, "state": "failed", "attempts": 2}
    try:
        value = expression.evaluate(lambda one: follow(node[one.what], one.path))
    except EvaluationError as error:
        kind = error.kind
    else:
        kind = check(expression, lambda node, what: COMPLETE if what == "output" else None)
        assert kind == word_of(value) or (kind, type(value)) == ("double", int)
    assert kind != "type"


def test_enough_is_accepted_for_that_to_mean_something() -> None:
    """Every operator and every kind of part is among what the property above evaluates."""
    texts = "a.output.n % 2 + size(a.output.s) > 1 && a.output.ints[a.output.n] in [1] ? 'x' : a.output.texts[0] + 'y'"
    assert types_of(parse(texts)) == {"bool", "int", "string", "list"}
    assert Read("a", "output", ("ints",)) in parse(texts).reads
