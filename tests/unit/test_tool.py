"""Tools in graphs, contracts and the registry: how they are written, who does them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from scheduler import Graph, Settings, UnknownTool, tool
from scheduler.core.run import Run
from scheduler.errors import GraphError, InputMismatch, InvalidValue, PathNotInOutput
from scheduler.store.capabilities import Binding
from scheduler.store.routes import Routes
from scheduler.worker import executor, install
from scheduler.worker.contracts import contract_of


def test_a_tool_stands_where_an_executor_could() -> None:
    """One form in Python, JSON and YAML; readers that would look for an executor of that name do not read the graph."""
    g = Graph("g")
    g.add(tool("search", "2"), q="hi").fallback(tool("search"))
    [node] = g.document()["nodes"]
    assert (node["key"], node["executor"]) == ("tool:search@2", "tool:search@2")
    assert node["retry"]["steps"][1]["executor"] == "tool:search"
    written = Graph("g")
    written.add("tool:search@2", q="hi").fallback("tool:search")
    for same in (written, Graph.from_json(g.to_json()), Graph.from_yaml(g.to_yaml())):
        assert same.hash == g.hash
    plain = Graph("p")
    plain.add(tool("search", "2.1"))
    compiled = plain.compile()
    assert compiled.header["min_reader"] == 3
    profile = Run.load("r", compiled.header, compiled.pages(), created_at_ms=0).profiles[0]
    assert (profile.executor, profile.may_be_done_by_others) == ("tool:search@2.1", True)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        *((name, "1") for name in ("", "a b", "a@1", "a\n", "ä", "x" * 101, 5, None)),
        *(("a", version) for version in ("", "v1", "1.2.3", "01", "1\n", "1.", "-1", "1e3", 2, 2.1)),
        ("a@1", None),
    ],
)
def test_a_name_or_version_that_no_tool_has_is_refused(name: Any, version: Any) -> None:
    """In Python and in documents, with what to write."""
    with pytest.raises(GraphError, match=r"Write|Leave"):
        tool(name, version)
    if isinstance(name, str) and isinstance(version, str):
        document = {"celeriac": 1, "name": "g", "nodes": [{"key": "n", "executor": f"tool:{name}@{version}"}]}
        with pytest.raises(InvalidValue):
            Graph.from_document(document)


CONTRACTS: dict[str, dict[str, Any]] = {
    "b.find": {
        "tools": ["search@2", "search@10"],
        "input_schema": {"type": "object", "properties": {"q": {"type": "string"}, "top": {"type": "integer"}}},
        "output_schema": {"type": "object", "properties": {"hits": {}, "cost": {}}},
    },
    "a.find": {
        "tools": ["search@2", "search@2.1"],
        "input_schema": {"type": "object", "properties": {"q": {"type": "string"}}},
        "output_schema": {"type": "object", "properties": {"hits": {}}},
    },
    "odd": {"tools": ["search", "search@x", 7, None]},
    "odder": {"tools": "search@3", "input_schema": None},
    "old": {"input_schema": None},
}


def chosen(asked: str, **bound: str) -> str:
    """The rule by which a tool's executor is found; "" for none. `bound`: search_2="x" binds search@2."""
    bindings = {f"tool:{name.replace('_', '@')}": Binding(it, "ann", at_ms=1) for name, it in bound.items()}
    route = Routes(CONTRACTS, bindings).find(f"tool:{asked}")
    return "" if route is None else route.rule


@pytest.mark.parametrize(
    ("asked", "bound", "rule"),
    [
        ("search@2", {}, "tool search@2: executor a.find, the first by name of 2"),
        ("search@2.1", {}, "tool search@2.1: executor a.find, the only one that offers it"),
        ("search", {}, "tool search@10, the newest: executor b.find, the only one that offers it"),
        ("search@2", {"search_2": "x"}, "tool search@2: executor x, bound by ann"),
        ("search@2", {"search": "x"}, "tool search@2: executor a.find, the first by name of 2"),
        ("search", {"search": "x"}, "tool search: executor x, bound by ann"),
        ("search", {"search_10": "x"}, "tool search@10, the newest: executor x, bound by ann"),
        ("search", {"search_11": "x"}, "tool search@11, the newest: executor x, bound by ann"),
        ("search@3", {}, ""),
        ("search@x", {}, ""),
        ("find", {}, ""),
    ],
)
def test_one_rule_names_the_executor_of_a_tool(asked: str, bound: dict[str, str], rule: str) -> None:
    """A binding first, then whoever offers exactly that version, the first by name; without a version the newest."""
    assert chosen(asked, **bound) == rule


def test_the_registry_knows_what_is_offered_and_bound() -> None:
    """Versions are numbers, so 10 is newer than 2.1; what is no tool in a contract is passed over."""
    routes = Routes(CONTRACTS, {"tool:mail": Binding("x"), "generate": Binding("y")})
    assert (routes.tools(), routes.versions("search")) == (["mail", "search"], ["2", "2.1", "10"])
    assert routes.versions("mail") == []
    assert routes == Routes(CONTRACTS, dict(routes.bindings))
    assert routes != Routes({}, routes.bindings)


def reads(step: str, asked: Any, **inputs: Any) -> Graph:
    """A node that asks for a tool, and one that reads a part of its output."""
    g = Graph("g")
    node = g.add(asked, key="n", **inputs)
    g.add("old", key="reads", x=node.out[step])
    return g


def test_what_some_executor_of_the_tool_takes_and_gives_is_accepted() -> None:
    """Which of them it is shows when the node is sent."""
    reads("hits", tool("search", "2"), q="hi").check(contracts=CONTRACTS)
    reads("cost", tool("search"), q="hi", top=3).check(contracts=CONTRACTS)


@pytest.mark.parametrize(
    ("graph", "error", "text"),
    [
        (lambda: reads("hits", tool("search", "2"), q=5), InputMismatch, r'nodes\["n"\].inputs\["q"\]'),
        (lambda: reads("hits", tool("search", "2.1"), top=1), InputMismatch, "there is no input 'top'"),
        (lambda: reads("cost", tool("search", "2.1")), PathNotInOutput, "cost"),
        (lambda: reads("hits", tool("search", "3")), UnknownTool, r"version 3 of the tool .* Known .* 2, 2.1, 10\."),
        (lambda: reads("hits", tool("serch")), UnknownTool, "a tool 'serch'. Known tools: search. Did you mean"),
    ],
)
def test_what_no_executor_of_the_tool_can_do_is_refused(
    graph: Callable[[], Graph], error: type[GraphError], text: str
) -> None:
    """When the graph is submitted: a tool or version that nobody offers is most likely misspelt."""
    with pytest.raises(error, match=text):
        graph().check(contracts=CONTRACTS)


def test_an_executor_publishes_which_tools_it_is() -> None:
    """With its contract; a plain task says it on the task."""
    app = Celery("shop", broker="memory://")
    install(app, redis_url="redis://nowhere")

    @executor(name="tool.find", tools=["search@2.1", "look-up@1", "search@2.1"], app=app)
    def find(q: str) -> str:
        """Finds."""
        return q

    @app.task(name="tool.plain", tools=["echo@1"])
    def plain() -> None:
        """Does nothing."""

    @app.task(name="tool.own", tools=[print], expected_seconds="soon")
    def own() -> None:
        """Has attributes of these names that mean something else."""

    @app.task(name="tool.slow", tools=["echo@1"], expected_seconds=2.5)
    def slow() -> None:
        """Says how long it takes."""

    assert [contract_of(app.tasks["tool.own"], None)[it] for it in ("tools", "expected_seconds")] == [[], None]
    assert contract_of(app.tasks["tool.slow"], None)["expected_seconds"] == 2.5
    assert find.contract()["tools"] == ["look-up@1", "search@2.1"]
    assert contract_of(app.tasks["tool.plain"], None)["tools"] == ["echo@1"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tools": "search@2"}, "is no list of tools"),
        ({"tools": ["search"]}, "names no tool with a version"),
        ({"tools": ["search@v2"]}, "names no tool with a version"),
        ({"tools": [5]}, "names no tool with a version"),
        ({"name": "tool:search@2"}, "names a tool. Begin it otherwise"),
    ],
)
def test_an_executor_that_cannot_be_meant_is_refused(options: dict[str, Any], text: str) -> None:
    """Where it is declared."""
    with pytest.raises(InvalidValue, match=text):
        executor(**options)(lambda: None)


def test_configuration_binds_tools_too(tmp_path: Path) -> None:
    """In the file that binds capabilities, by the name that documents write."""
    file = tmp_path / "mine.toml"
    file.write_text('"tool:search@2" = "a.find"\n"tool:search" = "b.find"\n')
    found = Settings.load(capabilities_file=file).capabilities
    assert found == {"tool:search@2": "a.find", "tool:search": "b.find"}
