"""Evaluation: row by row what CEL says, then against an oracle, then against values that nobody should send."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.expressions import EvaluationError, Missing, Read, evaluate, evaluated, follow, parse, worded
from tests.unit.core.expressions import expression_trees as trees

OUTPUT = {
    "score": 0.3,
    "n": 7,
    "name": "page",
    "ok": True,
    "none": None,
    "rows": [10, 20, 30],
    "empty": [],
    "by": {"k": 1, "a b": 2},
    "i": 1,
    "id": 2**64,
    "deep": {"list": [{"x": 1}]},
}
DATA: dict[str, dict[str, Any]] = {
    "a": {"output": OUTPUT, "error": None, "state": "succeeded", "attempts": 1},
    "my-node": {
        "output": None,
        "error": {"kind": "timeout", "type": "TimeLimit", "message": "too slow"},
        "state": "failed",
        "attempts": 3,
    },
    "skipped": {"error": None, "state": "skipped", "attempts": 0},
}


def looked(read: Read, data: dict[str, dict[str, Any]] = DATA) -> Any:
    """A `look` as the scheduler has one."""
    node = data.get(read.node, {})
    if read.what not in node:
        raise Missing
    return follow(node[read.what], read.path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # Equality. CEL: numbers by value across types, all else by type; never an error; true is not 1
        ("1 == 1.0", True),
        ("1 == 2", False),
        ("1 != 1.0", False),
        ("1 == true", False),
        ("0 == false", False),
        ("1 == '1'", False),
        ("1 != '1'", True),
        ("null == null", True),
        ("null == false", False),
        ("'a' == 'a'", True),
        ("'é' == 'e\\u0301'", False),  # no normalisation
        ("[1, 2.0] == [1.0, 2]", True),
        ("[1] == [true]", False),
        ("[1, 2] == [2, 1]", False),
        ("['one'] == [2, 3]", False),
        ("[[null]] == [[null]]", True),
        ("9007199254740993 == 9007199254740992.0", False),  # by value, not as the nearest double
        ("a.output.by == a.output.by", True),
        ("a.output.by == a.output", False),
        ("a.output.id == 18446744073709551616.0", True),  # beyond int64, which CEL does not have: by value
        ("a.output.none == null", True),
        ("a.output.name == null", False),
        # Ordering. CEL: numbers across types, strings by code point, bools
        ("1 < 1.5", True),
        ("2 >= 2.0", True),
        ("9007199254740993 > 9007199254740992.0", True),
        ("'a' < 'b'", True),
        ("'Z' < 'a'", True),
        ("'a' < 'ab'", True),
        ("'\\uffff' < '\\U0001f600'", True),  # by code point, not by UTF-16 unit
        ("false < true", True),
        ("true <= true", True),
        ("a.output.id > 9223372036854775807", True),
        # Arithmetic on ints. CEL: truncation towards zero, the remainder has the sign of the dividend
        ("7 / 2", 3),
        ("-7 / 2", -3),
        ("7 / -2", -3),
        ("-7 / -2", 3),
        ("7 % 3", 1),
        ("-7 % 3", -1),
        ("7 % -3", 1),
        ("-7 % -3", -1),
        ("42 % 5", 2),
        ("1 - 2 - 3", -4),
        ("2 + 3 * 4", 14),
        ("-(-42)", 42),
        ("-9223372036854775807 - 1", -(2**63)),
        ("9223372036854775807 / -1", -(2**63) + 1),
        # on doubles, and mixed, which is an extension of ours: as doubles
        ("1 + 0.5", 1.5),
        ("0.5 * 4", 2.0),
        ("1 / 2.0", 0.5),
        ("7.0 / 2", 3.5),
        ("-(4.5)", -4.5),
        ("1.5 - 1", 0.5),
        ("5e-324 / 2.0", 0.0),  # CEL: underflow gives the closest double
        # Joining. CEL: strings and lists by +
        ("'a' + 'b'", "ab"),
        ("[1] + [2, 'x']", [1, 2, "x"]),
        ("[] + []", []),
        # Logic. CEL: commutative, an error or a wrong type is absorbed if the other side decides
        ("true && true", True),
        ("true && false", False),
        ("false || true", True),
        ("false || false", False),
        ("false && 1 / 0 > 1", False),
        ("1 / 0 > 1 && false", False),
        ("true || 1 / 0 > 1", True),
        ("1 / 0 > 1 || true", True),
        ("false && 32", False),
        ("'horses' && false", False),
        ("'horses' || true", True),
        ("a.output.nothing > 1 || a.output.ok", True),
        ("a.error.kind == 'x' || true", True),
        ("1 / 0 > 1 && true && false", False),
        ("!true", False),
        ("!!true", True),
        # Conditional. CEL: only the branch that is chosen
        ("true ? 1 : 1 / 0", 1),
        ("false ? 1 / 0 : 'x'", "x"),
        ("a.output.ok ? a.output.n : a.output.nothing", 7),
        # Membership. CEL: equality with any element; a key of a map
        ("2 in [1, 2]", True),
        ("2.0 in [1, 2]", True),
        ("true in [1]", False),
        ("[1] in [[1]]", True),
        ("null in [null]", True),
        ("1 in []", False),
        ("20 in a.output.rows", True),
        ("'k' in a.output.by", True),
        ("'x' in a.output.by", False),
        ("1 in a.output.by", False),
        ("a.output.rows in a.output.by", False),
        # size(). CEL: code points of a string, elements of a list, entries of a map
        ("size('😀é')", 2),
        ("size([1, [2, 3]])", 2),
        ("size(a.output.by)", 2),
        ("size('')", 0),
        # Fields and items. CEL: e.f is e['f'] on maps; a double that is whole is an index too
        ("a.output.rows[0]", 10),
        ("a.output['by']['a b']", 2),
        ("a.output.rows[a.output.i]", 20),
        ("a.output.rows[1.0]", 20),
        ("a.output.by[a.output.ok ? 'k' : 'x']", 1),
        ("[1, 2, 3][2]", 3),
        ("(true ? a.output : a.error).n", 7),
        ("a.output.deep.list[a.output.i - 1].x", 1),
        ("a.output.none", None),
        # has(). CEL: whether the field is there, whatever its value; here of a whole path
        ("has(a.output.score)", True),
        ("has(a.output.none)", True),
        ("has(a.output.nothing)", False),
        ("has(a.output.nothing.at.all)", False),
        ("has(a.output.name.first)", False),
        ("has(a.output.rows[1].x)", False),
        ("has(a.error.kind)", False),
        ("has(skipped.output)", False),
        ("has(nodes['my-node'].output)", True),
        ("has(a.output.nothing) && a.output.nothing > 1", False),
        # what a node is beside its output
        ("a.state", "succeeded"),
        ("a.attempts + nodes['my-node'].attempts", 4),
        ("a.error", None),
        ("nodes['my-node'].error.kind in ['timeout', 'lost']", True),
        ("a.error != null && a.error.kind == 'timeout'", False),
        ("skipped.state == 'skipped' ? 0 : skipped.output.n", 0),
        ("a.output", OUTPUT),
    ],
)
def test_values_are_those_of_cel(text: str, value: Any) -> None:
    """To the type: 3 is not 3.0, 1 is not true."""
    assert trees.same(parse(text).evaluate(looked), value)


@pytest.mark.parametrize(
    ("text", "kind", "problem"),
    [
        ("1 < '1'", "type", 'int < string is not defined, and met 1 < "1"'),
        ("1 < true", "type", "int < bool"),
        ("null < null", "type", "null < null"),
        ("[1] < [2]", "type", "list < list"),
        ("'a' + 1", "type", "string + int"),
        ("[1] + 1", "type", "list + int"),
        ("'a' - 'b'", "type", "string - string"),
        ("true + true", "type", "bool + bool"),
        ("47.5 % 5.5", "type", "double % double"),  # CEL has no % on doubles
        ("4 % 2.0", "type", "int % double"),
        ("-true", "type", "-bool"),
        ("-'a'", "type", "-string"),
        ("!1", "type", "!int"),
        ("!null", "type", "!null"),
        ("size(1)", "type", "size(int)"),
        ("size(null)", "type", "size(null)"),
        ("1 in 1", "type", "int in int"),
        ("'a' in 'abc'", "type", "string in string"),
        # no truthiness
        ("1 ? 2 : 3", "type", "a condition is bool, and 1 is int"),
        ("'cows' ? false : 17", "type", '"cows" is string'),
        ("null && true", "type", "null is null"),
        ("true && 1", "type", "1 is int"),
        ("'less filling' && 'tastes great'", "type", '"less filling" is string'),
        ("0 || false", "type", "0 is int"),
        # errors that nothing absorbs
        ("true && 1 / 0 > 1", "number", "1 / 0 divides by zero"),
        ("1 / 0 > 1 || false", "number", "divides by zero"),
        ("2 / 0 > 4 ? 'baz' : 'quux'", "number", "divides by zero"),
        ("[1 / 0]", "number", "divides by zero"),
        # CEL: overflow of int64 and division by zero are errors; of doubles they are here
        ("42 % 0", "number", "42 % 0 divides by zero"),
        ("15.75 / 0.0", "number", "divides by zero"),
        ("0.0 / 0.0", "number", "divides by zero"),
        ("9223372036854775807 + 1", "number", "9223372036854775807 + 1 is beyond int64"),
        ("-9223372036854775808 - 1", "number", "beyond int64"),
        ("9223372036854775807 * 2", "number", "beyond int64"),
        ("-9223372036854775808 / -1", "number", "beyond int64"),
        ("-9223372036854775808 % -1", "number", "beyond int64"),
        ("-(-9223372036854775808)", "number", "-(-9223372036854775808) is beyond int64"),
        ("1e308 * 10.0", "number", "1e+308 * 10.0 is no finite number"),
        ("a.output.id + 1", "number", "18446744073709551616 is beyond int64"),
        ("-a.output.id", "number", "beyond int64"),
        # what is not there, with what was met
        ("a.output.nothing", "missing", 'a.output has no field "nothing"'),
        ("a.output.nothing.more", "missing", 'a.output has no field "nothing"'),
        ("a.output.rows[3]", "missing", "a.output.rows has 3 items and no item 3"),
        ("a.output.rows[a.output.n]", "missing", "[10, 20, 30] has 3 items and no item 7"),
        ("a.output.rows[-1]", "missing", "no item -1"),
        ("a.output.rows[0.5]", "missing", "no item 0.5"),
        ("a.output.by[a.output.name]", "missing", 'no field "page"'),
        ("a.output.score.x", "type", 'a.output.score is double and has no field "x"'),
        ("a.output.none.x", "type", 'a.output.none is null and has no field "x"'),
        ("a.output.rows.x", "type", 'a.output.rows is list and has no field "x"'),
        ("a.output.by[0]", "type", "a.output.by is map and has no item 0"),
        ("a.output.by[a.output.i]", "type", "is map and has no item 1"),
        ("a.output.rows[a.output.ok]", "type", "no item true"),
        ("a.error.kind", "type", 'a.error is null and has no field "kind"'),
        ("'abc'[0]", "type", '"abc" is string and has no item 0'),  # CEL does not index strings
        ("skipped.output", "missing", "there is no skipped.output"),
        ("skipped.output.k", "missing", "there is no skipped.output.k"),
    ],
)
def test_errors_are_those_of_cel(text: str, kind: str, problem: str) -> None:
    """They have a kind, and say which types or which value were met."""
    with pytest.raises(EvaluationError) as caught:
        parse(text).evaluate(looked)
    assert caught.value.kind == kind
    assert problem in caught.value.problem
    assert caught.value.text == parse(text).text
    assert str(caught.value).startswith(f"{parse(text).text}: {caught.value.problem}")


def test_an_error_names_the_expression_and_the_values_met() -> None:
    """The value of each read that was made, and only of those."""
    with pytest.raises(EvaluationError) as caught:
        parse("a.output.ok && a.output.name >= 0.8 && a.output.n > 1 / 0").evaluate(looked)
    assert caught.value.seen == (("a.output.ok", "true"), ("a.output.name", '"page"'), ("a.output.n", "7"))
    assert str(caught.value) == (
        "a.output.ok && a.output.name >= 0.8 && a.output.n > 1 / 0: string >= double is not defined, and met "
        '"page" >= 0.8 (a.output.ok = true, a.output.name = "page", a.output.n = 7). '
        "Correct the expression, or what the executor returns."
    )
    with pytest.raises(EvaluationError) as caught:
        parse("a.output.by.x > 1").evaluate(looked)
    assert caught.value.seen == (("a.output.by", '{"k": 1, "a b": 2}'),)


def test_a_read_is_asked_for_once_with_its_whole_constant_path() -> None:
    """Also when it is not there; and a branch not taken is not asked for."""
    asked: list[Read] = []

    def look(read: Read) -> Any:
        asked.append(read)
        return looked(read)

    text = "a.output.n > 1 && a.output.n < 9 && has(a.output.x) || has(a.output.x) || (true ? a.output.ok : a.output.i)"
    assert parse(text).evaluate(look) is True
    assert asked == [Read("a", "output", (it,)) for it in ("n", "x", "ok")]


def test_what_look_raises_is_its_own() -> None:
    """Only Missing means that something is not there."""
    with pytest.raises(ZeroDivisionError):
        parse("has(a.output)").evaluate(lambda _: 1 // 0)


def test_a_decision_can_be_explained() -> None:
    """The value, and each read with its value, in order; what has() did not find is shown where the path ended."""
    value, seen = evaluated(parse("a.output.n > 5 && !has(a.output.by.x)"), looked)
    assert value is True
    assert seen == (("a.output.n", "7"), ("a.output.by", '{"k": 1, "a b": 2}'))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.output.score >= 0.8", "a.output.score >= 0.8 is false (a.output.score = 0.3)"),
        ("a.output.ok", "a.output.ok is true"),
        ("1 < 2", "1 < 2 is true"),
        ("a.state", 'a.state is "succeeded"'),
        ("size(a.output.by) == a.attempts", '{} is false (a.output.by = {{"k": 1, "a b": 2}}, a.attempts = 1)'),
    ],
)
def test_a_decision_is_worded(text: str, said: str) -> None:
    """The expression, what came out, and why."""
    expression = parse(text)
    assert worded(expression, *evaluated(expression, looked)) == said.format(text)


@given(names=st.lists(st.text("xy\u202e", min_size=1, max_size=90), max_size=12, unique=True), value=trees.JSON)
@settings(max_examples=30)
def test_the_wording_is_bounded(names: list[str], value: Any) -> None:
    """At most 300 characters, however long the expression, its reads and its values are; and safe to print."""
    terms = [f"size(nodes[{trees._scalar(name)}].output) > {i}" for i, name in enumerate(names)]
    expression = parse(" || ".join(terms[:6] or ["true"]))
    seen = tuple((f"nodes.{name!a}", "v" * 80) for name in names)
    said = worded(expression, value, seen)
    assert len(said) <= 300
    said.encode()


# --- against the oracle ----------------------------------------------------------------------------------------

NODE = st.fixed_dictionaries(
    {}, optional={"output": trees.JSON, "error": trees.JSON, "state": st.just("failed"), "attempts": st.integers(0, 3)}
)
NODES = st.fixed_dictionaries({"a": NODE, "b": NODE}, optional={"my-node": NODE, "nodes": NODE, "in": NODE})


parsed = functools.cache(parse)


def agrees(tree: trees.Tree, data: dict[str, dict[str, Any]]) -> None:
    """The product and the oracle give the same value, or both an error."""
    try:
        expected = trees.oracle(tree, data)
    except trees.Wrong:
        expected = trees.Wrong
    try:
        found = parsed(trees.spelled(tree)).evaluate(lambda read: looked(read, data))
    except EvaluationError:
        found = trees.Wrong
    assert found is expected or trees.same(found, expected), trees.spelled(tree)


@settings(max_examples=100)
@given(tree=trees.TREES, data=NODES)
def test_random_trees_have_the_value_of_the_oracle(tree: trees.Tree, data: dict[str, dict[str, Any]]) -> None:
    """Operators, paths, logic and errors together, on random JSON."""
    if len(trees.spelled(tree)) <= 2_000:
        agrees(tree, data)


VALUES = [
    *(None, True, False, 0, 1, -7, trees.SMALLEST, trees.LARGEST, 2**53 + 1, -0.0, 0.5, 1.0, 2.0**53),
    *(1e300, 5e-324, "", "a", "B", [], [1], [1.0], [True, "a"], {"a": 1}, {"a": 1.0}),
]


@pytest.mark.parametrize("name", [*trees.INFIX, "[]"])
def test_every_operator_on_every_pair_of_values(name: str) -> None:
    """Every pair from a list of values of all types, with their edges."""
    for left in VALUES:
        for right in VALUES:
            data = {"a": {"output": left}, "b": {"output": right}}
            agrees((name, ("read", Read("a")), ("read", Read("b"))), data)


@pytest.mark.parametrize("name", ["&&", "||"])
def test_logic_is_commutative_in_every_case(name: str) -> None:
    """True, false, an error and a wrong type, in every order of three operands."""
    operands = {"true": True, "false": False, "1 / 0 > 1": None, "'x'": None}
    decisive = name == "||"
    for texts in [(a, b, c) for a in operands for b in operands for c in operands]:
        values = {operands[text] for text in texts}
        expected = decisive if decisive in values else None if None in values else not decisive
        try:
            found = parse(f" {name} ".join(texts)).evaluate(looked)
        except EvaluationError:
            found = None
        assert found is expected, texts


# --- against values that nobody should send ---------------------------------------------------------------------


def nested(levels: int) -> list[Any]:
    """A list in a list in a list."""
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


ENDLESS: list[Any] = [1]
ENDLESS.append(ENDLESS)
ENDLESS_MAP: dict[str, Any] = {}
ENDLESS_MAP["k"] = ENDLESS_MAP
WILD: list[Any] = [
    *(math.nan, math.inf, -math.inf, 10**5_000, -(10**400), "\ud800", "\udfff" * 200, "x" * 100_000, [0] * 5_000),
    *(nested(3_000), {"\ud800": "\udc00"}, {1: 2}, {None: []}, {(1,): 1}, [math.nan], [{1}], {"k": object()}),
    *({1}, object(), b"x", (1, 2), 1j, range(3), Ellipsis, type, dict.fromkeys(map(str, range(2_000)))),
]
USUAL: list[Any] = [1, "k", [0], {"k": 0}]
ONE = ["!a.output", "-a.output", "size(a.output)", "a.output.k", "a.output[0]", "has(a.output.k)", "[a.output]"]
TWO = [f"a.output {name} b.output" for name in trees.INFIX] + ["a.output[b.output]", "a.output ? 1 : b.output"]


@pytest.mark.parametrize("text", [*ONE, *TWO])
def test_no_value_raises_anything_else(text: str) -> None:
    """Neither what JSON cannot hold nor what is deep: an EvaluationError that is short and safe to print."""
    for left in WILD:
        for right in [left, *USUAL]:
            valued_or_refused(text, left, right)
            valued_or_refused(text, right, left)


@pytest.mark.parametrize("endless", [ENDLESS, ENDLESS_MAP])
def test_what_has_no_end_costs_too_much(endless: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list or map that holds itself is met without recursion."""
    monkeypatch.setattr(evaluate, "MOST_COST", 10_000)
    with pytest.raises(EvaluationError, match="costs more"):
        parse("a.output == b.output").evaluate(lambda _: endless)


def valued_or_refused(text: str, left: Any, right: Any) -> None:
    """Has a value, or an error; and what was seen can be recorded."""
    expression = parsed(text)
    outputs = {"a": left, "b": right}
    try:
        value, seen = evaluated(expression, lambda read: follow(outputs[read.node], read.path))
    except EvaluationError as error:
        message, seen = str(error), error.seen
    else:
        message = worded(expression, value, seen)
    message.encode()
    str(seen).encode()
    assert len(message) < 2_000
    assert all(len(shown) <= 80 for _, shown in seen)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.output == a.output", False),  # CEL: NaN equals nothing, itself included
        ("a.output != a.output", True),
        ("[a.output] == [a.output]", False),
        ("a.output in [a.output]", False),
        ("a.output < 1 || a.output > 1 || a.output == 1", False),
        ("1 < a.output", False),
    ],
)
def test_nan_is_as_in_ieee_754(text: str, value: bool) -> None:
    """It is no JSON, so it should not come; if it does, it is like nothing else."""
    assert parse(text).evaluate(lambda _: math.nan) is value


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("a.output + a.output == ''", "x" * 600_000),
        (" + ".join(["a.output"] * 40) + " == ''", "x" * 50_000),
        ("a.output + a.output == []", [0] * 600_000),
        ("a.output == b.output", [0] * 260_000),
        ("a.output == b.output", {str(i): i for i in range(260_000)}),
        ("a.output == b.output", ["x" * 20_000] * 60),
        ("a.output < b.output", "x" * 2_000_000),
        ("1 in a.output", [0] * 260_000),
        ("['x'] in a.output", [["y"]] * 200_000),
        ("false && a.output == b.output || a.output == b.output && false", [0] * 260_000),
        ("has(a.output.k) || a.output == b.output || true", [0] * 260_000),
    ],
)
def test_the_cost_of_an_evaluation_is_bounded(text: str, output: Any) -> None:
    """By size, before the work is done; and no && or || hides that the limit was passed."""
    with pytest.raises(EvaluationError) as caught:
        parse(text).evaluate(lambda read: follow(type(output)(output), read.path))
    assert caught.value.kind == "limit"


BIG = {"list": [0] * 2_000_000, "text": "x" * 2_000_000, "map": {f"k{i}": i for i in range(50_000)}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("size(a.output.list) == 2000000", True),
        ("a.output.list[1999999]", 0),
        ("size(a.output.text) > 5", True),
        ("a.output.text == 'xyz'", False),  # of another length
        ("a.output.text > 'x'", True),  # the shorter one decides
        ("'k1' in a.output.map && a.output.map['k' + '1'] == 1", True),
    ],
)
def test_what_does_not_grow_with_the_value_costs_little(text: str, value: Any) -> None:
    """Looking into a large output is fine; only walking through it is not."""
    assert trees.same(parse(text).evaluate(lambda read: follow(BIG, read.path)), value)


@pytest.mark.parametrize(
    ("value", "path", "step"),
    [
        ({"a": [1]}, ("a", 1), 1),
        ({"a": [1]}, ("b", "c"), 0),
        ([1], ("a",), 0),
        ([1], (-1,), 0),
        ("abc", (0,), 0),
        (None, ("a",), 0),
        ({"a": None}, ("a", "b"), 1),
    ],
)
def test_following_a_path_says_where_it_ends(value: Any, path: tuple[str | int, ...], step: int) -> None:
    """The step that is not there, and the value that has no such step."""
    with pytest.raises(Missing) as caught:
        follow(value, path)
    assert caught.value.step == step
    assert caught.value.met == follow(value, path[:step])
