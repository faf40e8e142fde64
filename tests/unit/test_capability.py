"""Capabilities in graphs, contracts and configuration: how they are written, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from scheduler import Graph, Settings, SettingsError, capability
from scheduler.core.run import Run
from scheduler.errors import GraphError, InputMismatch, InvalidValue, PathNotInOutput, UnknownExecutor
from scheduler.settings import default_file, read_capabilities
from scheduler.worker import executor, install
from scheduler.worker.contracts import contract_of


def test_a_capability_stands_where_an_executor_could() -> None:
    """One form in Python, JSON and YAML; readers that would look for an executor of that name do not read the graph."""
    g = Graph("g")
    node = g.add(capability("generate"), prompt="hi")
    node.fallback(capability("look-up.v2"))
    assert node.key == "capability:generate"
    assert g.document()["nodes"][0]["executor"] == "capability:generate"
    assert g.document()["nodes"][0]["retry"]["steps"][1]["executor"] == "capability:look-up.v2"
    written = Graph("g")
    written.add("capability:generate", prompt="hi").fallback("capability:look-up.v2")
    for same in (written, Graph.from_json(g.to_json()), Graph.from_yaml(g.to_yaml())):
        assert same.hash == g.hash
    plain = Graph("p")
    plain.add(capability("generate"))
    compiled = plain.compile()
    assert compiled.header["min_reader"] == 3
    assert Run.load("r", compiled.header, compiled.pages(), created_at_ms=0).profiles[0].executor == node.key


@pytest.mark.parametrize("name", ["", "a b", "a|b", "ä", "x" * 101, "a\n", 5, None])
def test_a_name_that_no_capability_has_is_refused(name: Any) -> None:
    """In Python and in documents."""
    with pytest.raises(GraphError):
        capability(name)
    document = {"celeriac": 1, "name": "g", "nodes": [{"key": "n", "executor": f"capability:{name}"}]}
    if name not in (5, None):
        with pytest.raises(InvalidValue):
            Graph.from_document(document)


CONTRACTS: dict[str, dict[str, Any]] = {
    "a.llm": {
        "capabilities": ["generate"],
        "input_schema": {"type": "object", "properties": {"prompt": {"type": "string"}, "t": {"type": "number"}}},
        "output_schema": {"type": "object", "properties": {"text": {}, "cost": {}}},
    },
    "b.llm": {
        "capabilities": ["generate", "translate"],
        "input_schema": {"type": "object", "properties": {"prompt": {"type": "string"}}},
        "output_schema": {"type": "object", "properties": {"text": {}}},
    },
    "free": {"capabilities": ["anything"], "input_schema": None, "output_schema": None},
    "old": {"input_schema": None},
}


def reads(step: str, asks: str = "generate", **inputs: Any) -> Graph:
    """A node that asks for a capability, and one that reads a part of its output."""
    g = Graph("g")
    node = g.add(capability(asks), key="n", **inputs)
    g.add("old", key="reads", x=node.out[step])
    return g


def test_what_some_executor_of_the_capability_takes_and_gives_is_accepted() -> None:
    """Which of them is bound shows when the node is sent."""
    reads("text", prompt="hi").check(contracts=CONTRACTS)
    reads("cost", prompt="hi", t=0.5).check(contracts=CONTRACTS)
    reads("whatever", "anything", x=1).check(contracts=CONTRACTS)


@pytest.mark.parametrize(
    ("graph", "error", "text"),
    [
        (lambda: reads("text", prompt=5), InputMismatch, r'nodes\["n"\].inputs\["prompt"\]'),
        (lambda: reads("text", "translate", t=1), InputMismatch, "there is no input 't'"),
        (lambda: reads("price", prompt="hi"), PathNotInOutput, "price"),
        (lambda: reads("cost", "translate"), PathNotInOutput, "cost"),
        (lambda: reads("text", "generat"), UnknownExecutor, "Did you mean 'capability:generate'"),
    ],
)
def test_what_no_executor_of_the_capability_can_do_is_refused(
    graph: Callable[[], Graph], error: type[GraphError], text: str
) -> None:
    """When the graph is submitted; a capability that nobody offers is most likely misspelt."""
    with pytest.raises(error, match=text):
        graph().check(contracts=CONTRACTS)


def test_an_executor_publishes_what_it_can_do() -> None:
    """With its contract; a plain task says it on the task."""
    app = Celery("shop", broker="memory://")
    install(app, redis_url="redis://nowhere")

    @executor(name="cap.llm", capabilities=["generate", "chat", "chat"], app=app)
    def llm(prompt: str) -> str:
        """Answers."""
        return prompt

    @app.task(name="cap.plain", capabilities=["translate"])
    def plain() -> None:
        """Does nothing."""

    assert llm.contract()["capabilities"] == ["chat", "generate"]
    assert contract_of(app.tasks["cap.plain"], None)["capabilities"] == ["translate"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"capabilities": "generate"}, "is no list of names"),
        ({"capabilities": ["a b"]}, "names no capability"),
        ({"capabilities": [5]}, "names no capability"),
        ({"name": "capability:generate"}, "names a capability. Begin it otherwise"),
    ],
)
def test_an_executor_that_cannot_be_meant_is_refused(options: dict[str, Any], text: str) -> None:
    """Where it is declared."""
    with pytest.raises(InvalidValue, match=text):
        executor(**options)(lambda: None)


def test_configuration_names_executors_by_capability(tmp_path: Path) -> None:
    """The shipped file binds nothing; one of yours is named by a setting."""
    assert read_capabilities(default_file("capabilities.toml")) == {}
    file = tmp_path / "mine.toml"
    file.write_text('generate = "a.llm"\n"look-up.v2" = "cache"\n')
    assert Settings.load(capabilities_file=file).capabilities == {"generate": "a.llm", "look-up.v2": "cache"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("generate = 5", "5 is no executor"),
        ('generate = ""', "is no executor"),
        ('generate = "capability:x"', "is no executor"),
        ('"a b" = "x"', "names no capability"),
        ("generate", "is not TOML"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    """At the start of the process, with the file and what to do."""
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=problem):
        Settings.load(capabilities_file=file)
