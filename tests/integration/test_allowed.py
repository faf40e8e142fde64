"""Executors by queue class: what may not run in its class fails with a reason, before or after the submit."""

from __future__ import annotations

import json

import pytest

from scheduler import Client, ExecutorNotAllowed
from scheduler.graph import Graph
from scheduler.service.transport import MemoryTransport
from tests.integration.echo import Echo, tasks
from tests.integration.stage import Stage, eventually, idle

ECHO_ONLY = {"executors": ("echo", "text.*")}


def mixed() -> Graph:
    """a, then b which is not allowed; c needs b, d only its end; e has nothing to do with it."""
    graph = Graph("mixed")
    a = graph.add("echo", key="a")
    b = graph.add("shell.run", key="b", after=a)
    graph.add("echo", key="c", x=b)
    graph.add("echo", key="d", after=b, trigger_rule="all_done")
    graph.add("text.wrap", key="e")
    return graph


def test_a_node_that_may_not_run_in_its_class_fails_and_the_others_go_on(stage: Stage, memory: MemoryTransport) -> None:
    """No message is sent for it; its error says who may; what follows is decided as after any failure."""
    stage.publish("shell.run", "text.wrap")
    worker = Echo(stage.attempts)
    with stage.scheduler(memory, standard_low=ECHO_ONLY) as scheduler:
        run = stage.submit(mixed())
        for sent in (2, 3):
            eventually(lambda sent=sent: len(tasks(memory)) == sent)  # type: ignore[misc]
            worker.take(tasks(memory)[-1:] if sent == 3 else tasks(memory))
        assert stage.ended(run) == ["failed"]
        assert scheduler.counts["not allowed"] == 1
    keys = stage.load(run).keys
    states = stage.states(run)
    assert states == {"a": "succeeded", "b": "failed", "c": "upstream_failed", "d": "succeeded", "e": "succeeded"}
    error = json.loads(stage.runs.values(run, [keys.index("b")])[keys.index("b")])
    assert (error["kind"], error["type"], error["origin"]) == ("permanent", "ExecutorNotAllowed", "policy")
    for word in ("'shell.run'", "'standard-low'", "text.*"):
        assert word in error["message"]
    assert stage.words(run, keys.index("b")) == ["ready", "dispatch", "fail"]
    idle(stage)


def test_an_executor_that_becomes_known_later_is_refused_then(stage: Stage, memory: MemoryTransport) -> None:
    """A node that waited for its executor's contract fails once that says it has no business in its class."""
    graph = Graph("later")
    graph.add("shell.run", key="a")
    with stage.scheduler(memory, standard_low=ECHO_ONLY):
        run = stage.submit(graph)
        eventually(lambda: "wait" in stage.words(run, 0))
        stage.publish("shell.run")
        assert stage.ended(run) == ["failed"]
    assert tasks(memory) == []
    idle(stage)


def test_a_submit_names_the_node_and_the_class(stage: Stage) -> None:
    """Where the classes are declared the graph is refused at once, and nothing is stored."""
    stage.publish("echo", "shell.run", "text.wrap")
    with Client(stage.url, settings=stage.settings(standard_low=ECHO_ONLY)) as client:
        with pytest.raises(ExecutorNotAllowed) as refused:
            client.submit(mixed())
        assert refused.value.at == 'nodes["b"].executor'
        assert (refused.value.executor, refused.value.queue_class) == ("shell.run", "standard-low")
        assert client.runs() == []
        allowed = Graph("allowed")
        allowed.add("shell.run", queue_class="batch-high")
        assert client.submit(allowed).id
