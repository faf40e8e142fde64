"""Secret inputs: how they are written, what is stored and hashed, and what checks make of them."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest

from scheduler import Graph, InputMismatch, InvalidValue, Secret
from scheduler.errors import HandleMisused, NotJson
from scheduler.graph import CompiledGraph

NAMES = ("smtp-password", "a", "A.b_c-9", "x" * 128)
REFERENCE = {"$secret": "db"}


def graph() -> Graph:
    """Secrets by name, by position, deep inside, and an object that only looks like one."""
    g = Graph("g")
    up = g.add("web.fetch", key="up")
    g.add(
        "mail.send",
        key="a",
        args=[1, Secret("first")],
        inputs={"page": up, "auth": {"user": "u", "keys": [0, Secret("db")]}, "same": {"$secret": "no"}},
    )
    return g


def page_of(compiled: CompiledGraph) -> dict[str, Any]:
    """The one page of a small graph."""
    [page] = compiled.pages()
    found: dict[str, Any] = json.loads(zlib.decompress(page))
    return found


def test_one_form_in_python_json_and_yaml() -> None:
    """The document has the name; a user's own object of that shape is quoted; all ways give one hash."""
    g = graph()
    node = g.document()["nodes"][1]
    assert node["args"] == [1, {"$secret": "first"}]
    assert node["inputs"]["auth"] == {"user": "u", "keys": [0, {"$secret": "db"}]}
    assert node["inputs"]["same"] == {"$literal": {"$secret": "no"}}
    assert Graph.from_json(g.to_json()).hash == Graph.from_yaml(g.to_yaml()).hash == g.hash
    assert Graph.from_json(g.to_json()).to_json() == g.to_json()
    assert graph().hash != Graph("g").hash


def test_the_compiled_form_says_where_secrets_stand() -> None:
    """By place and not by looks: the literal that looks like a secret is not among them."""
    g = graph()
    page = page_of(g.compile())
    assert page["secrets"] == {"1": [[0, 1], [1, "auth", "keys", 1]]}
    assert page_of(Graph.from_json(g.to_json()).compile()) == page
    assert '{"$secret":"db"}' in "".join(part for part in page["inputs"][1] if isinstance(part, str))
    assert "secrets" not in page_of(Graph.from_document({**Graph("x").document(), "nodes": [_plain()]}).compile())


def _plain() -> dict[str, Any]:
    return {"key": "a", "executor": "x", "inputs": {"v": {"$literal": {"$secret": "db"}}}}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_taken(name: str) -> None:
    """Letters, digits, dots, dashes, underscores."""
    assert Secret(name).name == name
    assert Secret(name) == Secret(name)
    assert repr(Secret(name)) == f"Secret({name!r})"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ü", "a\n", "x" * 129, "../etc", None, 7])
def test_names_that_are_refused(name: Any) -> None:
    """Nothing that leads out of a directory, into another variable, or onto another line."""
    with pytest.raises(InvalidValue):
        Secret(name)
    with pytest.raises(InvalidValue) as refused:
        Graph.from_document({"celeriac": 1, "name": "g", "nodes": [{**_plain(), "args": [{"$secret": name}]}]})
    assert refused.value.at == 'nodes["a"].args[0]["$secret"]'


@pytest.mark.parametrize("value", [{"$secret": "db", "x": 1}, {"$secret": "db", "$ref": "a"}])
def test_a_secret_has_no_other_fields(value: Any) -> None:
    """A misspelt form is told, not taken as data."""
    with pytest.raises(InvalidValue):
        Graph.from_document({"celeriac": 1, "name": "g", "nodes": [{**_plain(), "args": [value]}]})


def test_a_secret_cannot_hide_in_a_literal() -> None:
    """What stands as it is cannot hold something that is exchanged."""
    with pytest.raises(HandleMisused, match="Secret"):
        Graph("g").add("x", v={"$ref": "a", "b": Secret("db")})
    with pytest.raises(NotJson):
        Graph.from_document(
            {"celeriac": 1, "name": "g", "nodes": [{**_plain(), "args": [{"$literal": {"a": Secret("db")}}]}]}
        )


@pytest.mark.parametrize(
    ("schema", "fits"),
    [
        ({"type": "string"}, True),
        ({"type": "string", "enum": ["a"]}, True),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, True),
        ({}, True),
        ({"type": "integer"}, False),
        ({"type": "object"}, False),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, False),
    ],
)
def test_contracts_take_a_secret_for_a_text(schema: dict[str, Any], fits: bool) -> None:
    """Where a text is wanted it fits, whatever texts are wanted; elsewhere it is refused before anything is stored."""
    contracts = {"x": {"input_schema": {"type": "object", "properties": {"v": schema}, "required": ["v"]}}}
    g = Graph("g")
    g.add("x", key="a", v=Secret("db"))
    if fits:
        g.compile(contracts=contracts)
        return
    with pytest.raises(InputMismatch, match="a secret is text") as refused:
        g.compile(contracts=contracts)
    assert refused.value.at == 'nodes["a"].inputs["v"]'
