"""Tools: nodes that ask for a name and a version go to the executor that the registry names when they are sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scheduler import Client, UnknownTool
from scheduler.cli import main
from scheduler.graph import Graph, Retry, again, other, tool
from scheduler.service.transport import MemoryTransport
from scheduler.store.capabilities import Capabilities
from tests.integration.echo import AtOnce, Echo, Task, tasks, value
from tests.integration.replayed import decided_again
from tests.integration.stage import Stage, eventually, idle


@pytest.fixture
def bindings(stage: Stage) -> Capabilities:
    """Bindings of the installation, in which three executors offer `search`."""
    stage.publish("b.find", tools=["search@2"], queue_class="interactive-low")
    stage.publish("a.find", tools=["search@1", "search@2"])
    stage.publish("c.find", tools=["search@2.1"])
    stage.publish("echo")
    return Capabilities(stage.client, stage.namespace)


def by(task: Task) -> Any:
    """Who did it."""
    return value(task.executor)


def told(stage: Stage, run: Any, word: str) -> list[str]:
    """The reasons of a run's lines of one kind."""
    return [move[4] for move in stage.moves(run) if move[1] == word]


def test_a_tool_and_version_lead_to_their_executor(
    stage: Stage, bindings: Capabilities, worker: Echo, at_once: AtOnce, tmp_path: Path
) -> None:
    """The first by name, the newest version where none is said, and the log says which rule it was; replay is equal."""
    worker.act = by
    graph = Graph("three")
    for key, asked in {"1": tool("search", "1"), "2": tool("search", "2"), "new": tool("search")}.items():
        graph.add(asked, key=key, q="hi")
    with stage.scheduler(at_once), Client(stage.url) as client:
        run = stage.submit(graph)
        assert stage.ended(run) == ["succeeded"]
        assert client.run(run).results() == {"1": "a.find", "2": "a.find", "new": "c.find"}
        [step] = [it for it in client.run(run).explain("2", check=True).steps if it.move == "dispatch"]
        assert step.why == "tool search@2: executor a.find, the first by name of 2"
        assert client.run(run).explain(check=True).differs == []
    assert set(told(stage, run, "dispatch")) == {
        "tool search@1: executor a.find, the only one that offers it",
        "tool search@2: executor a.find, the first by name of 2",
        "tool search@2.1, the newest: executor c.find, the only one that offers it",
    }
    decided_again(stage, run, tmp_path)
    idle(stage)


def test_a_binding_counts_before_what_workers_offer(
    stage: Stage, bindings: Capabilities, worker: Echo, at_once: AtOnce
) -> None:
    """In the class of the executor that is bound; taken back, the rule holds again."""
    bindings.bind("tool:search@2", "b.find", by="ann", reason="cheaper")
    worker.act = by
    graph = Graph("one")
    graph.returns(graph.add(tool("search", "2"), key="n"))
    with stage.scheduler(at_once), Client(stage.url) as client:
        first = stage.submit(graph)
        assert stage.ended(first) == ["succeeded"]
        assert client.run(first).nodes()[0].queue_class == "interactive-low"
        assert client.run(first).result() == "b.find"
    assert told(stage, first, "dispatch") == ["tool search@2: executor b.find, bound by ann: cheaper"]
    bindings.unbind("tool:search@2")
    with stage.scheduler(at_once), Client(stage.url) as client:
        second = stage.submit(graph)
        assert client.run(second).result(20) == "a.find"
        assert stage.ended(second) == ["succeeded"]
    idle(stage)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (tool("search", "3"), ["version 3 of the tool 'search'", "Known versions of it: 1, 2, 2.1", "node 'n'"]),
        (tool("serch", "1"), ["a tool 'serch'", "Known tools: search", "Did you mean 'search'"]),
        (tool("mail"), ["a tool 'mail'", "celeriac tools bind"]),
    ],
)
def test_an_unknown_tool_fails_its_attempt_at_once(
    stage: Stage, bindings: Capabilities, memory: MemoryTransport, asked: Any, words: list[str], tmp_path: Path
) -> None:
    """With kind `contract` and what is known; no message is lost, nothing waits, and replay is equal."""
    graph = Graph("unknown")
    graph.add(asked, key="n", retry=Retry(3))
    graph.add("echo", key="m", after="n")
    with stage.scheduler(memory) as scheduler, Client(stage.url) as client:
        run = stage.submit(graph)
        assert stage.ended(run) == ["failed"]
        assert scheduler.counts["unknown tools"] == 1
        explained = client.run(run).explain("n", check=True)
        assert explained.differs == []
        assert explained.steps[-1].why.startswith("contract: attempt failed 1 of")
    error = json.loads(stage.runs.values(run, [0])[0])
    assert (error["kind"], error["type"], error["origin"], error["phase"]) == (
        "contract",
        "UnknownTool",
        "contract",
        "route",
    )
    assert [it for it in words if it not in error["message"]] == []
    assert stage.words(run, 0) == ["ready", "dispatch", "fail"]
    assert stage.states(run)["m"] == "upstream_failed"
    decided_again(stage, run, tmp_path)
    assert tasks(memory) == []
    idle(stage)


def test_many_unknown_tools_fail_and_the_others_go_on(stage: Stage, bindings: Capabilities, at_once: AtOnce) -> None:
    """Those of one turn are refused in one look; their neighbours never notice."""
    graph = Graph("many")
    for number in range(300):
        graph.add(tool("nothing", str(number)), key=f"t{number}")
        graph.add("echo", key=f"e{number}")
    with stage.scheduler(at_once) as scheduler:
        run = stage.submit(graph)
        assert stage.ended(run) == ["failed"]
        assert scheduler.counts["unknown tools"] == 300
    assert {key[0]: state for key, state in stage.states(run).items()} == {"t": "failed", "e": "succeeded"}
    idle(stage)


def test_a_ladder_goes_on_from_an_unknown_tool(
    stage: Stage, bindings: Capabilities, worker: Echo, at_once: AtOnce, tmp_path: Path
) -> None:
    """It is a failure like any other: the same again does not mend it, another executor may."""
    worker.act = by
    graph = Graph("ladder")
    graph.add(tool("search", "9"), key="n", retry=Retry(steps=[again(3), other(tool("search", "1"))]))
    with stage.scheduler(at_once), Client(stage.url) as client:
        run = stage.submit(graph)
        assert stage.ended(run) == ["succeeded"]
        assert client.run(run).nodes()[0].fallback_from == "tool:search@9"
        assert client.run(run).explain("n", check=True).differs == []
    rung = "rung 2 of 2, executor tool:search@1, fallback_from tool:search@9"
    rule = "tool search@1: executor a.find, the only one that offers it"
    assert told(stage, run, "dispatch") == ["", f"{rung}; {rule}"]
    decided_again(stage, run, tmp_path)
    idle(stage)


def test_a_tool_published_a_moment_ago_is_never_taken_for_unknown(
    stage: Stage, bindings: Capabilities, worker: Echo, at_once: AtOnce
) -> None:
    """Before it refuses, a scheduler that has been idle reads what has been published meanwhile."""
    worker.act = by
    graph = Graph("new")
    graph.returns(graph.add(tool("mail", "1"), key="n"))
    with stage.scheduler(at_once, shard_lease_seconds=60.0), Client(stage.url) as client:
        first = Graph("first")
        first.add("echo")
        assert stage.ended(stage.submit(first)) == ["succeeded"]
        stage.publish("mail.send", tools=["mail@1"])
        run = stage.submit(graph)
        assert client.run(run).result(20) == "mail.send"
        assert stage.ended(run) == ["succeeded"]
    idle(stage)


def test_ready_nodes_follow_a_newer_version(stage: Stage, bindings: Capabilities, memory: MemoryTransport) -> None:
    """What waits for room goes to what is the newest when it is sent; what was sent stays where it is."""
    graph = Graph("wide")
    for number in range(6):
        graph.add(tool("search"), key=str(number))
    worker = Echo(stage.attempts, by)
    with stage.scheduler(memory, standard_low={"window": 2}) as scheduler:
        run = stage.submit(graph)
        eventually(lambda: len(memory.sent) == 2)
        stage.publish("d.find", tools=["search@3"], queue_class="interactive-low")
        scheduler._learning.look_again()
        eventually(lambda: len(memory.sent) == 6)
        worker.take(tasks(memory))
        assert stage.ended(run) == ["succeeded"]
    assert [task.executor for task in worker.done] == ["c.find"] * 2 + ["d.find"] * 4
    idle(stage)


def test_a_submit_is_checked_against_the_registry(stage: Stage, bindings: Capabilities) -> None:
    """As for executors: nothing is stored, and the nearest name is said; unchecked it is submitted."""
    graph = Graph("g")
    graph.add(tool("serch", "2"), key="n")
    with Client(stage.url) as client:
        with pytest.raises(UnknownTool, match="Did you mean 'search'"):
            client.submit(graph)
        assert client.runs() == []
        assert client.submit(graph, check=False).nodes()[0].why == "waits: no worker has published the tool 'serch@2'"


def cli(stage: Stage, *words: str) -> tuple[int, str]:
    """Exit status and all output of a command."""
    found = CliRunner().invoke(main, ["tools", *words, "--redis", stage.url])
    return found.exit_code, found.output


def test_an_operator_lists_binds_and_unbinds(stage: Stage, bindings: Capabilities) -> None:
    """The list shows the rule; capabilities and tools keep to lists of their own."""
    listed = [line.split("\t") for line in cli(stage, "ls")[1].splitlines()]
    assert listed[1:] == [
        ["search", "c.find", "search@2.1, the newest; the only one that offers it", ""],
        ["search@1", "a.find", "the only one that offers it", "a.find"],
        ["search@2", "a.find", "the first by name of 2", "a.find, b.find"],
        ["search@2.1", "c.find", "the only one that offers it", "c.find"],
    ]
    assert cli(stage, "bind", "search@2", "b.find", "--by", "ann", "--reason", "cheaper")[0] == 0
    found = {it["tool"]: it for it in json.loads(cli(stage, "ls", "-o", "json")[1])}
    assert (found["search@2"]["executor"], found["search@2"]["rule"]) == ("b.find", "bound by ann: cheaper")
    others = CliRunner().invoke(main, ["capabilities", "ls", "-o", "json", "--redis", stage.url])
    assert json.loads(others.output) == []
    status, said = cli(stage, "unbind", "search@2", "--by", "bob")
    assert (status, "done by a.find, the first by name of 2" in said) == (0, True)
    changes = json.loads(cli(stage, "ls", "--history", "-o", "json")[1])
    assert [(it["tool"], it["executor"], it["by"]) for it in changes] == [
        ("search@2", "", "bob"),
        ("search@2", "b.find", "ann"),
    ]
    assert cli(stage, "bind", "search", "a.find")[0] == 0
    assert bindings.bindings()["tool:search"].executor == "a.find"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bind", "search@2", "nobody"), "nobody"),
        (("bind", "search@2", "c.find"), "does not say that it offers search@2"),
        (("bind", "search@v2", "a.find"), "names no tool"),
        (("unbind", "a b"), "names no tool"),
    ],
)
def test_a_binding_that_makes_no_sense_is_refused(
    stage: Stage, bindings: Capabilities, words: tuple[str, ...], said: str
) -> None:
    """And nothing is stored, unless it is forced."""
    status, output = cli(stage, *words)
    assert status != 0
    assert said in output
    assert (bindings.bindings(), bindings.history()) == ({}, [])
    if words[2:] == ("c.find",):
        assert cli(stage, *words, "--force")[0] == 0
        assert bindings.bindings()["tool:search@2"].executor == "c.find"
