"""The builder: handles make edges, wrong wiring is refused at once, and all ways of writing have one form."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum
from types import SimpleNamespace
from typing import Any

import celery
import pytest

from scheduler.errors import (
    DuplicateNode,
    GraphError,
    HandleMisused,
    InvalidValue,
    TooLarge,
    UnknownNode,
)
from scheduler.graph import Graph, Retry


def only(graph: Graph) -> dict[str, Any]:
    """The document's last node."""
    found: dict[str, Any] = graph.document()["nodes"][-1]
    return found


def test_handing_over_a_handle_makes_the_edge() -> None:
    """Handles and paths are found at any depth of lists, tuples and dicts, and stand as references."""
    g = Graph("digest")
    page = g.add("web.fetch", url="https://example.org", key="front")
    g.add(
        "x", args=(page, [1, (page.out.text[0],)]), deep={"a": [{"b": page.out["of_ancestor"]}]}, why=page.error.message
    )

    node = only(g)

    front = {"$ref": "front"}
    assert node["args"] == [front, [1, [front | {"path": ["text", 0]}]]]
    assert node["inputs"]["deep"] == {"a": [{"b": front | {"path": ["of_ancestor"]}}]}
    assert node["inputs"]["why"] == front | {"of": "error", "path": ["message"]}


def test_an_ancestor_reference_makes_no_edge() -> None:
    """of_ancestor() is kept as "ancestor": true, and the node's upstream list does not grow."""
    g = Graph("g")
    a = g.add("x", key="a")
    b = g.add("x", key="b", after=a)
    g.add("x", key="c", after=[b], value=a.out.deep.of_ancestor()[0])
    assert only(g)["inputs"] == {"value": {"$ref": "a", "ancestor": True, "path": ["deep", 0]}}
    assert g.compile().header["edges"] == 2


def test_keys_default_to_the_executor_s_name_with_a_counter() -> None:
    """The second node of an executor is called name-2, and a key that is taken is stepped over."""
    g = Graph("g")
    g.add("x", key="x-2")
    with pytest.raises(InvalidValue):
        g.add("x", timeout=-1)
    assert [g.add("x").key for _ in range(3)] == ["x", "x-3", "x-4"], "a refused node leaves its key free"
    assert g.keys == ("x-2", "x", "x-3", "x-4")
    assert len(g) == 4
    assert [n.key for n in g] == list(g.keys)


def test_a_key_stands_once() -> None:
    """A second node of one key is refused by name."""
    g = Graph("g")
    g.add("x", key="a")
    with pytest.raises(DuplicateNode, match=r'nodes\["a"\]\.key.*already has a node'):
        g.add("x", key="a")


@pytest.mark.parametrize(
    "use",
    [
        bool,
        len,
        str,
        int,
        float,
        list,
        lambda p: p // 2,
        lambda p: abs(p),
        lambda p: 1 < p < 3,
        lambda p: p == 1 or p,
        lambda p: f"{p}",
        lambda p: 1 in p,
        lambda p: p(),
        hash,
    ],
)
def test_a_path_has_no_value_yet(use: Callable[[Any], object]) -> None:
    """Whatever would need the value raises with advice instead of going wrong silently."""
    path = Graph("g").add("x").out.score
    with pytest.raises(TypeError) as refused:
        use(path)
    if use is not hash:
        assert isinstance(refused.value, HandleMisused)
        assert re.search(r'nodes\["x"\]\.out\.score|x\.output\.score', str(refused.value))
        assert "when" in str(refused.value)


def test_handles_are_names() -> None:
    """A node is hashable, equal to itself only, and a copy of a handle is the handle."""
    g = Graph("g")
    a, b = g.add("x"), g.add("x")
    assert len({a, b, a}) == 2
    assert copy.deepcopy(a) is a
    path = a.out.x
    assert copy.deepcopy([path])[0] is path
    assert repr(a) == "Node('x')"
    assert repr(path["a b"][3]) == 'nodes["x"].out.x["a b"][3]'
    assert not hasattr(path, "_private")


@pytest.mark.parametrize("step", [True, -1, 2**40, 1.5, None, slice(1), "x" * 2_000, "\ud800", (1,)], ids=range(9))
def test_steps_of_a_path_are_fields_and_indexes(step: Any) -> None:
    """Anything but a field's name or an index from 0 is refused where it is written."""
    with pytest.raises(InvalidValue, match=r'^nodes\["x"\]\.out'):
        Graph("g").add("x").out[step]


def test_a_path_has_a_limit() -> None:
    """The sixty-fifth step is refused."""
    path = Graph("g").add("x").out
    for _ in range(64):
        path = path.a
    with pytest.raises(InvalidValue, match="64"):
        _ = path.a


def test_handles_of_another_graph_are_refused() -> None:
    """As input, in after and as returns."""
    other = Graph("other").add("x", key="o")
    g = Graph("g")
    for wrong in (
        lambda: g.add("y", a=other),
        lambda: g.add("y", a=[other.out.x]),
        lambda: g.add("y", after=other),
        lambda: g.returns(other),
    ):
        with pytest.raises(HandleMisused, match="another graph"):
            wrong()
    assert len(g) == 0, "a refused node is not half there"


class Colour(StrEnum):
    """Text underneath."""

    RED = "red"


class Size(IntEnum):
    """A number underneath."""

    BIG = 3


def test_values_are_taken_as_what_they_are_underneath() -> None:
    """Enumerations of text and numbers, tuples, and any mapping become plain JSON."""
    g = Graph("g")
    g.add("x", c=Colour.RED, s=Size.BIG, t=(1, 2), m=SimpleNamespace(a=None).__dict__, n=None, b=True, f=0.5)
    assert only(g)["inputs"] == {"c": "red", "s": 3, "t": [1, 2], "m": {"a": None}, "n": None, "b": True, "f": 0.5}


@pytest.mark.parametrize(
    ("value", "place", "problem"),
    [
        (math.nan, "", "not a finite number"),
        ([1, [math.inf]], "[1][0]", "not a finite number"),
        ({"a": "\ud800"}, '["a"]', "surrogate"),
        ({"\udfff": 1}, "", "surrogate"),
        ("\ud800", "", "surrogate"),
        ({1}, "", "a set"),
        ({"k": b"x"}, '["k"]', "a bytes"),
        ({1: 2}, "", "a key of an object"),
        (object(), "", "an object"),
        ([datetime(2026, 11, 20, tzinfo=UTC)], "[0]", "isoformat"),
        (10**5_000, "", "too many digits"),
    ],
    ids=range(11),
)
def test_what_json_cannot_carry_is_refused_with_its_place(value: Any, place: str, problem: str) -> None:
    """The error names the field, says what is wrong, and what to do, also next to real references."""
    for also in ({}, {"ref": "handle"}):
        g = Graph("g")
        more = dict.fromkeys(also, g.add("x"))
        with pytest.raises(GraphError) as refused:
            g.add("x", key="load", rows=value, inputs=more)
        assert f'nodes["load"].inputs{"" if place == "" and "surrogate" in problem else chr(91)}' in str(refused.value)
        assert place in refused.value.at
        assert problem in str(refused.value)
        assert refused.value.at.startswith('nodes["load"].inputs')


def test_depth_and_size_have_limits() -> None:
    """Sixty-four levels and a megabyte pass, one more does not; an endless list is refused, not followed."""

    def nested(levels: int) -> list[Any]:
        value: list[Any] = []
        for _ in range(levels - 1):
            value = [value]
        return value

    g = Graph("g")
    g.add("x", a=nested(64))
    with pytest.raises(InvalidValue, match="64 levels"):
        g.add("x", a=nested(65))
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidValue, match="64 levels"):
        g.add("x", a=endless)
    g.add("x", a="x" * 1_048_000)
    for text in ("x" * 1_048_570, "ü" * 524_288):
        with pytest.raises(TooLarge) as refused:
            g.add("x", a=text)
        assert refused.value.limit == 1_048_576


def test_a_join_of_many_nodes_counts_its_references() -> None:
    """Ten thousand references fit into the megabyte, a hundred thousand do not."""
    g = Graph("g")
    nodes = [g.add("x", key=f"n{i}") for i in range(10_000)]
    g.add("join", parts=nodes)
    with pytest.raises(TooLarge):
        g.add("join", parts=nodes * 10)


@pytest.mark.parametrize("name", ["", "x" * 257, "a\nb", "a\x00", "\x7f", "\x85", 7, None, b"x", True])
def test_names_are_text_without_control_characters(name: Any) -> None:
    """Of graphs, nodes, executors, classes and labels."""
    g = Graph("g")
    wrong_name: Any = 7 if name is None else name  # None means the default there
    for wrong in (
        lambda: Graph(name),
        lambda: g.add("x", key=wrong_name),
        lambda: g.add(name),
        lambda: g.add("x", queue_class=wrong_name),
        lambda: g.add("x", labels={"a": name}),
        lambda: g.add("x", labels={name: "a"}),
        lambda: g.add("x", after=[name]),
    ):
        with pytest.raises(GraphError):
            wrong()
    assert len(g) == 0


@pytest.mark.parametrize("name", ["ü", "a b/c:{7}%s$(x)", "\u202eabc", "👩‍🚀", " ", "x" * 256, '"', "__class__"])
def test_names_come_back_exactly(name: str) -> None:
    """Any Unicode without control characters is the user's own, through JSON, YAML and the compiled form."""
    g = Graph(name)
    a = g.add(name, key=name, labels={name: name}, inputs={name: name})
    g.add(name, after=a, queue_class=name, value=a.out[name])
    for again in (g, Graph.from_json(g.to_json()), Graph.from_yaml(g.to_yaml())):
        assert again.name == name
        assert again.hash == g.hash
        assert again.compile().keys[0] == name
        assert only(again)["queue_class"] == name


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(20, 20.0), (0.5, 0.5), ("500ms", 0.5), ("20s", 20.0), ("10m", 600.0), ("2h", 7200.0), ("1d", 86400.0),
     ("1.5h", 5400.0), (timedelta(minutes=5), 300.0)],
)  # fmt: skip
def test_durations_have_many_spellings(value: Any, seconds: float) -> None:
    """All of them become a number of seconds."""
    g = Graph("g")
    g.add("x", timeout=value)
    assert only(g)["timeout_seconds"] == seconds


@pytest.mark.parametrize(
    "value",
    [True, False, math.nan, math.inf, -1, "-1s", 0, "0s", 1e-9, 367 * 86_400, "400d", "20", "20 s", "1h30m", "٣s", "",
     [], timedelta(seconds=-1), 10**400],
    ids=range(19),
)  # fmt: skip
def test_senseless_durations_are_refused(value: Any) -> None:
    """Booleans, NaN, negative, none at all, more than 366 days, text that is no duration."""
    with pytest.raises(InvalidValue) as refused:
        Graph("g").add("x", key="k", timeout=value)
    assert refused.value.at == 'nodes["k"].timeout'
    with pytest.raises(InvalidValue):
        Graph("g", timeout=value)


def test_the_soft_limit_is_the_shorter_one() -> None:
    """A soft limit that cannot warn before the hard one is refused."""
    with pytest.raises(InvalidValue, match="not shorter"):
        Graph("g").add("x", timeout=10, soft_timeout="10s")


def test_retry_has_two_spellings() -> None:
    """Bounds as text, or as numbers; a bare number is a number of attempts; defaults are left out."""
    assert Retry(4, "1s..30s") == Retry(4, base_seconds=1, cap_seconds=30)
    assert Retry(base_seconds=120).cap_seconds == 120
    g = Graph("g", retry=7)
    g.add("x")
    assert only(g)["retry"] == {"max_attempts": 7}
    g.add("x", retry=Retry(3, "0s..1m", factor=3, max_losses=0))
    assert only(g)["retry"] == {"base_seconds": 0.0, "factor": 3.0, "max_losses": 0}
    g.add("x", retry=Retry())
    assert "retry" not in only(g)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"max_attempts": True},
        {"max_attempts": 1.5},
        {"max_attempts": "3"},
        {"max_attempts": 10_000},
        {"backoff": "1s"},
        {"backoff": "9s..1s"},
        {"backoff": 3},
        {"backoff": "1s..2s", "cap_seconds": 3},
        {"base_seconds": -1},
        {"base_seconds": math.nan},
        {"factor": 0.5},
        {"factor": math.inf},
        {"factor": True},
        {"max_losses": -1},
    ],
)
def test_senseless_retries_are_refused(wrong: dict[str, Any]) -> None:
    """The error names the field of the policy."""
    with pytest.raises(InvalidValue, match=r"^retry\."):
        Retry(**wrong)


def test_defaults_of_the_graph_hold_for_nodes_that_say_nothing() -> None:
    """And a node's own word wins; labels are put together."""
    g = Graph("g", timeout="1m", soft_timeout="50s", queue_class="batch-high", labels={"team": "a", "x": "y"})
    g.add("x")
    assert only(g) == {
        "executor": "x", "key": "x", "timeout_seconds": 60.0, "soft_timeout_seconds": 50.0,
        "queue_class": "batch-high", "labels": {"team": "a", "x": "y"},
    }  # fmt: skip
    g.add("x", timeout="2m", queue_class="standard-low", labels={"team": "b"})
    assert only(g)["timeout_seconds"] == 120.0
    assert only(g)["labels"] == {"team": "b", "x": "y"}


def test_trigger_rules_are_checked_by_name() -> None:
    """A misspelled rule is refused with the right one offered."""
    g = Graph("g")
    with pytest.raises(InvalidValue, match="Did you mean 'all_done'"):
        g.add("x", trigger_rule="all_dome")
    for rule in ("quorum(0)", "quorum(-1)", "quorum(x)", "quorum()", "quorum(1)\n", 3, True, None):
        with pytest.raises(InvalidValue, match="trigger_rule"):
            g.add("x", trigger_rule=rule)  # type: ignore[arg-type]
    g.add("x", trigger_rule="none_failed_min_one_success")


def test_inputs_named_like_arguments_of_add_go_through_inputs() -> None:
    """inputs= carries any name; a name that is given twice is refused."""
    g = Graph("g")
    g.add("x", inputs={"key": 1, "timeout": 2}, executor=3, self=4)
    assert only(g)["inputs"] == {"key": 1, "timeout": 2, "executor": 3, "self": 4}
    with pytest.raises(InvalidValue, match="given twice"):
        g.add("x", inputs={"a": 1}, a=2)
    for wrong in (7, [1], {1: 2}):
        with pytest.raises(GraphError):
            g.add("x", inputs=wrong)  # type: ignore[arg-type]
    for wrong_args in ("abc", 7, {"a": 1}):
        with pytest.raises(InvalidValue, match="args"):
            g.add("x", args=wrong_args)  # type: ignore[arg-type]


@pytest.mark.parametrize("after", [7, {"a": 1}, [7], [None], object()])
def test_after_is_nodes_or_keys(after: Any) -> None:
    """Anything else is refused by position."""
    with pytest.raises(InvalidValue, match=r"\.after"):
        Graph("g").add("x", after=after)


def test_after_takes_handles_and_keys() -> None:
    """One or several, each once, sorted in the document."""
    g = Graph("g")
    b, a = g.add("x", key="b"), g.add("x", key="a")
    g.add("y", after=a)
    assert only(g)["after"] == ["a"]
    g.add("y", after=a.out.x)
    assert only(g)["after"] == ["a"]
    g.add("y", after="later")
    g.add("y", after=[b, "a", a.out.x, b])
    assert only(g)["after"] == ["a", "b"]
    g.add("y", after=(n for n in (a,)))
    assert only(g)["after"] == ["a"]


app = celery.Celery("shop", set_as_current=False)


@app.task(name="shop.resize")
def resize(path: str, width: int = 100) -> str:
    """A plain Celery task."""
    return f"{path}@{width}"


def test_celery_tasks_and_signatures_are_executors() -> None:
    """A task by its name; a signature with its args, kwargs and time limits, handles inside of it included."""
    g = Graph("order")
    small = g.add(resize, path="in.png")
    assert only(g) == {"executor": "shop.resize", "key": "shop.resize", "inputs": {"path": "in.png"}}
    g.add(resize.s(small.out.name, width=50).set(time_limit=30, soft_time_limit=20), key="again")
    assert only(g) == {
        "executor": "shop.resize", "key": "again", "args": [{"$ref": "shop.resize", "path": ["name"]}],
        "inputs": {"width": 50}, "timeout_seconds": 30.0, "soft_timeout_seconds": 20.0,
    }  # fmt: skip
    g.add(resize.si("a").clone(), timeout="5s", args=["b"], width=3)
    assert only(g)["args"] == ["a", "b"]
    assert only(g)["timeout_seconds"] == 5.0
    with pytest.raises(InvalidValue, match="given twice"):
        g.add(resize.s("a", width=1), width=2)
    frozen = resize.s("a")
    frozen.freeze()
    g.add(frozen)
    assert only(g)["args"] == ["a"]


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"queue": "q"}, "queue_class="),
        ({"priority": 3}, "queue_class="),
        ({"countdown": 3}, "when it is ready"),
        ({"retry": True}, "retry="),
        ({"link": [1]}, "after="),
        ({"serializer": "pickle"}, "Leave it out"),
        ({"headers": {"a": 1}}, "Leave it out"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(options: dict[str, Any], remedy: str) -> None:
    """Nothing that a user asked for is dropped silently."""
    with pytest.raises(InvalidValue, match=remedy) as refused:
        Graph("g").add(resize.s("a").set(**options))
    assert next(iter(options)) in refused.value.at


def test_canvas_is_not_one_node() -> None:
    """Chains, groups and chords are refused with a word about where they go."""
    for canvas in (
        resize.s("a") | resize.s(),
        celery.group(resize.s("a"), resize.s("b")),
        celery.chord([resize.s("a"), resize.s("b")], resize.s()),
        resize.map(["a"]),
        resize.chunks([("a",)], 1),
    ):
        with pytest.raises(InvalidValue, match="canvas"):
            Graph("g").add(canvas)


@pytest.mark.parametrize("executor", [7, None, True, [], {}, SimpleNamespace(name=7), {"task": 7}])
def test_an_executor_has_a_name(executor: Any) -> None:
    """Anything without one is refused."""
    with pytest.raises(GraphError):
        Graph("g").add(executor)


def test_returns_names_a_node_of_the_graph() -> None:
    """By handle or key; others are refused with the closest key."""
    g = Graph("g")
    a = g.add("x", key="load")
    g.returns(a)
    assert g.document()["returns"] == "load"
    assert g.node("load").key == "load"
    with pytest.raises(UnknownNode, match="Did you mean 'load'"):
        g.returns("laod")
    with pytest.raises(UnknownNode):
        g.node("laod")


def test_objects_that_look_like_references_are_quoted() -> None:
    """Data with the key "$ref" or "$literal" stays data, through every way of writing; a handle in it is refused."""
    g = Graph("g")
    a = g.add("x", key="a")
    data = {"schema": {"$ref": "#/defs/a", "deep": [{"$literal": 1}]}, "x": {"$literal": {"$ref": "a"}}, "n": a}
    g.add("y", key="b", inputs=data)
    for again in (Graph.from_json(g.to_json()), Graph.from_yaml(g.to_yaml())):
        assert again.hash == g.hash
        assert list(again.compile().pages()) == list(g.compile().pages())
    assert only(g)["inputs"]["schema"] == {"$literal": data["schema"]}
    with pytest.raises(HandleMisused, match="cannot hold a handle"):
        g.add("y", v={"$ref": a})


def test_the_hash_does_not_depend_on_the_order_of_writing() -> None:
    """Nor on spelled-out defaults; it does depend on everything else."""

    def made(*, swap: bool = False, **more: Any) -> Graph:
        g = Graph("g")
        names = ["b", "a"] if swap else ["a", "b"]
        for name in names:
            g.add("x", key=name, inputs={"p": 1, "q": {"r": 2, "s": 3}} if swap else {"q": {"s": 3, "r": 2}, "p": 1})
        g.add("y", key="c", after=names, **more)
        return g

    same = {made().hash, made(swap=True).hash, made(retry=3, trigger_rule="all_success").hash}
    assert len(same) == 1
    assert same.isdisjoint({made(timeout=1).hash, made(labels={"a": "b"}).hash, made(extra=None).hash})
    assert made(v=1).hash != made(v=1.5).hash != made(v=True).hash


def test_the_hash_follows_the_graph_as_it_grows() -> None:
    """It is remembered, but never stale."""
    g = Graph("g")
    g.add("x")
    seen = [g.hash]
    g.add("x")
    seen.append(g.hash)
    g.returns("x")
    seen.append(g.hash)
    assert len(set(seen)) == 3
