"""Expressions as text: what parses, into which one spelling, and where and why the rest is refused."""

from __future__ import annotations

import contextlib
import copy
import doctest
import importlib
import pickle
import pkgutil
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scheduler.core import expressions
from scheduler.core.expressions import (
    Read,
    binary,
    call,
    conditional,
    constant,
    draw,
    item,
    listed,
    literal,
    parse,
    read,
    unary,
)
from scheduler.errors import ExpressionError
from tests.unit.core.expressions import expression_trees as trees


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        # literals; CEL: IntLiteral, FloatLiteral, StringLiteral, BoolLiteral, NullLiteral
        ("42", "42"),
        ("007", "7"),
        ("0x1F", "31"),
        ("-0x10", "-16"),
        ("9223372036854775807", "9223372036854775807"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("- 5", "-5"),
        ("-(5)", "-5"),
        ("-0", "0"),
        ("-0.0", "-0.0"),
        (".5", "0.5"),
        ("1.50", "1.5"),
        ("1e3", "1000.0"),
        ("2.5E-7", "2.5e-07"),
        ("1e-999", "0.0"),  # CEL's conformance tests: the closest double
        ("true", "true"),
        ("null", "null"),
        ("'it'", '"it"'),
        ("'say \"hi\"'", '"say \\"hi\\""'),
        ('"it\'s"', '"it\'s"'),
        (r"'\a\b\f\n\r\t\v\\\?\"\'\`'", r'"\u0007\u0008\u000c\n\r\t\u000b\\?\"' + "'`\""),
        (r"'\x41\X42\u00e9\U0001F600\101'", '"ABé😀A"'),
        ("'\x7f\x85\u2028\u202e'", '"\\u007f\\u0085\\u2028\\u202e"'),  # what terminals might obey is escaped
        ("[]", "[]"),
        ("[1,'a' , [null]]", '[1, "a", [null]]'),
        # nodes and their parts
        ("fetch . output", "fetch.output"),
        ('nodes["fetch"].output', "fetch.output"),
        ("nodes['my-node'].state", 'nodes["my-node"].state'),
        ("nodes['if'].attempts", 'nodes["if"].attempts'),
        ("nodes['nodes'].error", 'nodes["nodes"].error'),
        ("nodes['é'].error", 'nodes["é"].error'),
        ("size.output + has.output", "size.output + has.output"),  # CEL: a name is a function only before "("
        ("a.output['k']", "a.output.k"),
        ("a.output['a b']", 'a.output["a b"]'),
        ("a.output['true']", 'a.output["true"]'),
        ("a.output.if", "a.output.if"),  # CEL: SELECTOR may be reserved, not a keyword
        ("a.output[0][1].k", "a.output[0][1].k"),
        ("(a.output).k", "a.output.k"),
        ("a.output[(0)]", "a.output[0]"),
        ("a.output[0.0]", "a.output[0.0]"),
        ("a.output[b.output.i].name", "a.output[b.output.i].name"),
        ("[1, 2]['k']", "[1, 2].k"),
        # precedence, from weak to strong: ?: || && relations + * unary member; CEL's table
        ("true?1:2", "true ? 1 : 2"),
        ("true ? 1 : false ? 2 : 3", "true ? 1 : false ? 2 : 3"),
        ("true ? 1 : (false ? 2 : 3)", "true ? 1 : false ? 2 : 3"),
        ("true ? (false ? 1 : 2) : 3", "true ? (false ? 1 : 2) : 3"),
        ("(true ? false : true) ? 1 : 2", "(true ? false : true) ? 1 : 2"),
        ("true || false && true", "true || false && true"),
        ("(true || false) && true", "(true || false) && true"),
        ("true || (false && true)", "true || false && true"),
        ("true || (false || true)", "true || false || true"),
        ("(true && false) && (true && true)", "true && false && true && true"),
        ("1 < 2 && 2 < 3", "1 < 2 && 2 < 3"),
        ("1 < 2 == true", "1 < 2 == true"),  # CEL: relations from left to right
        ("1 < (2 == true)", "1 < (2 == true)"),
        ("1 + 2 < 3", "1 + 2 < 3"),
        ("1 + (2 < 3)", "1 + (2 < 3)"),
        ("1 + 2 * 3", "1 + 2 * 3"),
        ("(1 + 2) * 3", "(1 + 2) * 3"),
        ("1 - 2 - 3", "1 - 2 - 3"),
        ("1 - (2 - 3)", "1 - (2 - 3)"),
        ("1 + (2 + 3)", "1 + (2 + 3)"),  # doubles are not associative
        ("1 - -2", "1 - -2"),
        ("1--2", "1 - -2"),
        ("-2 * 3", "-2 * 3"),
        ("--2", "--2"),
        ("-(-2)", "--2"),
        ("-(1 + 2)", "-(1 + 2)"),
        ("(-2)[0]", "(-2)[0]"),
        ("-2[0]", "-2[0]"),  # CEL: unary - binds less than [] and .
        ("-2.k", "-2.k"),
        ("-[2][0]", "-[2][0]"),
        ("(-[2])[0]", "(-[2])[0]"),
        ("!!true", "!!true"),
        ("!(true && false)", "!(true && false)"),
        ("!(-1)", "!(-1)"),
        ("-(!true)", "-(!true)"),
        ("1 in [1] == true", "1 in [1] == true"),
        ("!(1 in [1])", "!(1 in [1])"),
        ("size ( 'a' ) > 0", 'size("a") > 0'),
        ("has(a.output['k'].n)", "has(a.output.k.n)"),
        ("has(a.error)", "has(a.error)"),
        ("\n\t 1\r\n+ 2 ", "1 + 2"),
    ],
)
def test_every_expression_has_one_spelling(text: str, canonical: str) -> None:
    """White space, quotes, escapes, parentheses and the longer spellings of nodes and fields make no difference."""
    assert parse(text).text == canonical
    assert parse(canonical).text == canonical


@pytest.mark.parametrize(
    ("text", "position", "problem", "remedy"),
    [
        ("", 0, "it ends where a value", "Complete"),
        ("1 +", 3, "it ends where a value", "Complete"),
        ("(1", 2, "')'", "Complete"),
        ("[1,]", 3, "a value", "Correct"),
        ("1 2", 2, "an operator or the end", "Correct"),
        ("a.output = 1", 9, "'='", "Write ==."),
        ("a.output and b.output", 9, "'and'", "Write &&."),
        ("not a.output", 0, "'not'", "Write !."),
        ("a.output is null", 9, "'is'", "Write ==."),
        ("True", 0, "'True'", "Write true."),
        ("a.output == None", 12, "'None'", "Write null."),
        ("a.output & b.output", 9, "'&'", "Write &&."),
        ("a.output # b", 9, "'#'", "Leave it out."),
        ("'abc", 0, "no end", "quote"),
        ("'a\nb'", 0, "no end", "quote"),
        (r"'\q'", 1, r"\q", "backslash"),
        (r"'a\ud800'", 2, r"\ud800", "backslash"),
        (r"'\U00110000'", 1, r"\U00110000", "backslash"),
        (r"'\x4'", 1, r"\x", "backslash"),
        ("'\ud800'", 1, "surrogate", "whole"),
        ("9223372036854775808", 0, "out of range", "int64"),
        ("1 - 9223372036854775808", 4, "out of range", "int64"),
        ("-9223372036854775809", 1, "out of range", "int64"),
        ("1e999", 0, "out of range", "double"),
        ("9" * 1_999, 0, "out of range", "int64"),
        ("1u", 0, "runs into a letter", "int"),
        ("0x", 0, "runs into a letter", "int"),
        ("b'x'", 0, "names a node", "b.output"),
        ("fetch", 0, "'fetch' names a node", "Write fetch.output, fetch.error, fetch.state or fetch.attempts."),
        ("fetch > 1", 0, "names a node", "fetch.output"),
        ("fetch['output']", 0, "names a node", "fetch.output"),
        ("nodes['my-node']", 0, "names a node", 'nodes["my-node"].output'),
        ("fetch.outptu.k", 6, "no 'outptu'", "Did you mean 'output'?"),
        ("fetch.result", 6, "no 'result'", "fetch.output"),
        ("(fetch).output", 1, "names a node", "fetch.output"),
        ("if.output", 0, "reserved", 'nodes["if"].output'),
        ("nodes.output", 5, "'['", "."),
        ("nodes[1].output", 6, "key of a node", "."),
        ("nodes[''].output", 0, "empty key", "Name"),
        ("a.output.true", 9, "the name of a field", "."),
        ("a.output.0", 8, "'.0'", "item as [0]"),
        ("a.output.items.size()", 19, "'('", "size(x)"),
        ("count(a.output)", 0, "no function 'count'", "size(x)"),
        ("sze(a.output)", 0, "no function 'sze'", "Did you mean 'size'?"),
        ("size(1, 2)", 6, "','", "."),
        ("size()", 5, "a value", "."),
        ("!-1", 1, "'-'", "parentheses"),  # CEL: ! and - do not mix without parentheses
        ("true ? false ? 1 : 2 : 3", 13, "':'", "parentheses"),  # CEL: no bare ?: between ? and :
        ("in", 0, "'in'", "."),
        ("{'a': 1}", 0, "'{'", "."),
        # said of the whole, so of its canonical text
        ("1+a.state.k", 11, "state is a word", "Write a.state."),
        ("a.attempts[0]", 10, "attempts is a number", "Write a.attempts."),
        ("a.state[b.output]", 7, "state is a word", "Write a.state."),
        ("has(1)", 4, "a field of a node", "has(fetch.output.score)"),
        ("has(a.output[0])", 4, "a field of a node", "size("),
        ("has(a.output['a b'])", 4, "a field of a node", '"a b" in'),
        ("has(a.output[b.output])", 4, "a field of a node", "has("),
    ],
)
def test_what_cannot_be_read_is_refused_with_place_and_remedy(
    text: str, position: int, problem: str, remedy: str
) -> None:
    """The error's facts are attributes, and its message names them, counting characters from 1."""
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    error = caught.value
    assert (error.position, problem in error.problem, remedy in error.remedy) == (position, True, True), error
    assert error.problem in str(error)
    assert error.remedy in str(error)
    if text:
        assert f"at character {position + 1}" in str(error)
    assert str(error).isprintable()


def test_the_reads_are_listed_once_in_order_of_first_use() -> None:
    """The longest constant path of each; what stands inside has(), an index or a branch not taken counts too."""
    found = parse("has(c.output.k) ? a.output.l[b.output.i].name : a.state == 'x' && b.output.i > c.output.k")
    assert found.reads == (
        Read("c", "output", ("k",)),
        Read("a", "output", ("l",)),
        Read("b", "output", ("i",)),
        Read("a", "state"),
    )
    assert parse("a.output[0]['k'].n > a.output[0].k['n']").reads == (Read("a", "output", (0, "k", "n")),)
    assert parse("1 < 2").reads == ()


@settings(max_examples=100)
@given(tree=trees.TREES)
@example(tree=("-", ("value", trees.SMALLEST)))
@example(tree=("-", ("-", ("value", 0.0))))
@example(tree=("[]", ("value", -1), ("value", "k")))
def test_text_builders_and_parser_agree(tree: trees.Tree) -> None:
    """However a tree came about, its text is one, parses to itself, and reads the same."""
    try:
        expression = built = trees.built(tree)
    except ExpressionError:
        return  # over a limit
    assert parse(expression.text) == built
    assert parse(expression.text).text == expression.text
    assert parse(expression.text).reads == expression.reads
    spelled = trees.spelled(tree)
    if len(spelled) <= 2_000:
        assert parse(spelled).text == expression.text


@settings(max_examples=50)
@given(tree=trees.TREES)
def test_no_parenthesis_can_be_left_out(tree: trees.Tree) -> None:
    """Without any one pair the text means something else, or nothing."""
    try:
        text = trees.built(tree).text
    except ExpressionError:
        return
    for begin, end in pairs_of(text):
        shorter = text[:begin] + " " + text[begin + 1 : end] + " " + text[end + 1 :]
        with contextlib.suppress(ExpressionError):
            assert parse(shorter).text != text


def pairs_of(text: str) -> list[tuple[int, int]]:
    """Where parentheses open and close that are no function's, strings left out."""
    found, open_, inside, skip = [], [], False, False
    for at, character in enumerate(text):
        if skip or (inside and character == "\\"):
            skip = not skip
        elif character == '"':
            inside = not inside
        elif character == "(" and not inside:
            open_.append(at)
        elif character == ")" and not inside:
            begin = open_.pop()
            if not text[:begin].endswith(("has", "size")):
                found.append((begin, at))
    return found


SIGNS = list("()[].,?:!-{#\"'\\é \n\ud800\x00")
PIECES = st.lists(
    st.sampled_from([*trees.INFIX, *SIGNS, "a", "nodes", "output", "has", "size", "true", "null", "'k'"])
    | st.sampled_from(["1", "0x", "1.5", "1e9", "9" * 30]),
    max_size=25,
).map("".join)
ANY_TEXT = st.text(st.characters(codec=None), max_size=40)


@settings(max_examples=150)
@given(text=st.one_of(PIECES, ANY_TEXT))
def test_no_text_raises_anything_else(text: str) -> None:
    """A text gives an expression or an ExpressionError, whose message is safe to print."""
    parsed_or_refused(text)


@settings(max_examples=60)
@given(tree=trees.TREES, data=st.data())
def test_no_mutation_of_a_text_raises_anything_else(tree: trees.Tree, data: st.DataObject) -> None:
    """Neither do expressions with pieces cut out, doubled or put in."""
    text = trees.spelled(tree)[:400]
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, len(text)))
    put = data.draw(st.one_of(st.just(""), PIECES, st.just(text[begin:end] * 2)))
    parsed_or_refused(text[:begin] + put + text[end:])


def parsed_or_refused(text: str) -> None:
    """Parses, or is refused within the text; what parses is canonical at once."""
    try:
        found = parse(text)
    except ExpressionError as error:
        message, inside = str(error), 0 <= error.position <= len(error.text)
    else:
        message, inside = "", parse(found.text) == found
    message.encode()
    assert inside


@pytest.mark.parametrize(
    ("text", "fits", "problem"),
    [
        (lambda n: " " * (n - 1) + "1", 2_000, "2,000 are allowed"),
        (lambda n: "1 + " * n + "1", 49, "50 deep"),
        (lambda n: "!" * n + "true", 49, "50 deep"),
        (lambda n: "-" * n + "1.5", 50, "50 deep"),
        (lambda n: "(" * n + "1" + ")" * n, 49, "50 deep"),
        (lambda n: "[" * n + "1" + "]" * n, 49, "50 deep"),
        (lambda n: "size(" * n + "1" + ")" * n, 49, "50 deep"),
        (lambda n: "[1]" + "[0]" * n, 48, "50 deep"),
        (lambda n: "true ? 1 : " * n + "2", 49, "50 deep"),
        (lambda n: "a.output[" * n + "0" + "]" * n, 50, "50 deep"),
        (lambda n: f"[{'1,' * (n - 2)}1]", 200, "200 parts"),
        (lambda n: " || ".join(["true"] * (n - 1)), 200, "200 parts"),
    ],
)
def test_text_nesting_and_parts_are_bounded(text: Any, fits: int, problem: str) -> None:
    """What is just within a limit parses, from its canonical text too; one more is refused."""
    found = parse(text(fits))
    assert parse(found.text) == found
    with pytest.raises(ExpressionError, match=problem):
        parse(text(fits + 1))


def test_the_canonical_text_is_bounded_too() -> None:
    """A text that grows by its escapes beyond the limit is refused, since nobody could read it back."""
    with pytest.raises(ExpressionError, match="written out it has 2,402 characters"):
        parse("'" + "\x01" * 400 + "'")


def test_thousands_of_parentheses_are_no_recursion_error() -> None:
    """Depth is counted before it is entered."""
    for text in ("(" * 2_000, "[" * 2_000, "-" * 2_000, "a.output[" * 222, "1+" * 999 + "1", "true?1:" * 285 + "1"):
        with pytest.raises(ExpressionError):
            parse(text)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (lambda: constant(None), "null"),
        (lambda: constant([1, "a", True, 0.5]), '[1, "a", true, 0.5]'),
        (lambda: constant(()), "[]"),
        (lambda: constant(-1), "-1"),
        (lambda: read("fetch"), "fetch.output"),
        (lambda: read("my-node", "output", ["rows", 0, "a b"]), 'nodes["my-node"].output.rows[0]["a b"]'),
        (lambda: read("fetch", "state"), "fetch.state"),
        (lambda: unary("!", binary("&&", constant(True), constant(False))), "!(true && false)"),
        (lambda: unary("-", constant(1)), "-1"),
        (lambda: binary("-", constant(1), binary("-", constant(2), constant(3))), "1 - (2 - 3)"),
        (lambda: binary("in", constant("x"), read("a", path=["tags"])), '"x" in a.output.tags'),
        (lambda: call("size", read("a")), "size(a.output)"),
        (lambda: call("has", read("a", "error", ["kind"])), "has(a.error.kind)"),
        (lambda: conditional(constant(True), constant(1), constant(2)), "true ? 1 : 2"),
        (lambda: item(read("a"), constant("k")), "a.output.k"),
        (lambda: item(read("a"), read("b")), "a.output[b.output]"),
        (lambda: listed(read("a"), constant(1)), "[a.output, 1]"),
    ],
)
def test_builders_write_the_canonical_text(expression: Any, text: str) -> None:
    """Python's operators need no text of their own."""
    assert expression().text == text
    assert expression() == parse(text)


def test_many_conditions_stay_flat() -> None:
    """A chain of a hundred && is one part with a hundred operands, however it was put together."""
    terms = [binary("==", read("a", path=[f"k{i}"]), constant(i)) for i in range(50)]
    left = terms[0]
    for term in terms[1:]:
        left = binary("&&", left, term)
    right = terms[-1]
    for term in reversed(terms[:-1]):
        right = binary("&&", term, right)
    assert left == right == parse(" && ".join(term.text for term in terms))


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (lambda: constant(2**63), "beyond int64"),
        (lambda: constant(10**5_000), "beyond int64"),
        (lambda: constant(float("nan")), "no finite number"),
        (lambda: constant(float("-inf")), "no finite number"),
        (lambda: constant("\ud800"), "surrogate"),
        (lambda: constant({"a": 1}), "cannot be written"),
        (lambda: constant({1}), "cannot be written"),
        (lambda: constant(["x", object()]), "cannot be written"),
        (lambda: constant([1] * 500), "cannot be written"),
        (lambda: constant([[1]]), "cannot be written"),
        (lambda: constant("x" * 3_000), "3,002 characters"),
        (lambda: read(""), "no key"),
        (lambda: read("\udfff"), "surrogate"),
        (lambda: read("a", "result"), "nothing of that name"),
        (lambda: read("a", path=[-1]), "no path"),
        (lambda: read("a", path=[True]), "no path"),
        (lambda: read("a", path="rows"), "no path"),
        (lambda: read("a", "state", ["k"]), "is a word"),
        (lambda: item(read("a", "attempts"), constant(0)), "is a number"),
        (lambda: unary("~", constant(True)), "no such operator"),
        (lambda: binary("&", constant(True), constant(True)), "no such operator"),
        (lambda: call("sum", constant(True)), "no such operator"),
        (lambda: call("has", constant(1)), "a field of a node"),
    ],
)
def test_builders_refuse_what_no_text_says(wrong: Any, problem: str) -> None:
    """With the same error as the parser."""
    with pytest.raises(ExpressionError, match=problem):
        wrong()


def test_subclasses_of_scalars_become_scalars() -> None:
    """An enum or a string of one's own is written as its value, and none of its methods is kept."""

    class Loud(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "loud"

    assert literal(Loud("quiet")) == '"quiet"'
    assert literal(True) == "true"


def test_expressions_are_values() -> None:
    """Equal by text, usable as keys, immutable, and the same after a pickle or a copy."""
    one = parse("a.output.k > 1")
    assert {one: 1}[parse("(a.output['k'])>1")] == 1
    assert one != parse("a.output.k > 2")
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(one, protocol))
        assert (again, again.reads, again.evaluate(lambda _: 2)) == (one, one.reads, True)
    assert copy.deepcopy(one) == one
    with pytest.raises(AttributeError):
        one.text = "1"  # type: ignore[misc]  # what must not work


def test_what_is_no_text_is_refused() -> None:
    """A YAML file may hold `when: true`; that is an error of the graph and no TypeError."""
    wrong: Any = True
    with pytest.raises(ExpressionError, match="not text"):
        parse(wrong)


def test_reads_are_drawn_as_they_are_written() -> None:
    """The drawing of a read parses to that read."""
    for one in (Read("a"), Read("my-node", "error", ("kind",)), Read('q"\n', "output", (0, "if", "true", "é"))):
        assert parse(draw(one)).reads == (one,)


@pytest.mark.parametrize("name", ["", *(f".{it.name}" for it in pkgutil.iter_modules(expressions.__path__))])
def test_the_examples_in_docstrings_run(name: str) -> None:
    """What the package says of itself is so."""
    module = importlib.import_module(f"scheduler.core.expressions{name}")
    assert doctest.testmod(module).failed == 0
