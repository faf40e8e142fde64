"""Versions: a run records those of its graph and executors, and an executor of another major version is not sent to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scheduler import Client, VersionMismatch
from scheduler.cli import main
from scheduler.graph import Graph, Retry, again, capability, other
from scheduler.service.loop import Scheduler
from scheduler.service.transport import MemoryTransport
from scheduler.store.capabilities import Capabilities
from scheduler.versions import contract_hash
from tests.integration.echo import AtOnce, Echo, tasks
from tests.integration.replayed import decided_again
from tests.integration.stage import Stage, eventually, idle


def two(**options: Any) -> Graph:
    """Node a before b, both fetched."""
    graph = Graph("two", version="7")
    a = graph.add("web.fetch", key="a", **options)
    graph.add("web.fetch", key="b", after=a, **options)
    return graph


def told(stage: Stage, run: Any, word: str) -> list[str]:
    """The reasons of a run's lines of one kind."""
    return [move[4] for move in stage.moves(run) if move[1] == word]


def test_a_run_records_the_versions_it_was_submitted_with(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """Graph, hash, executors and their contracts; client, command line and archive show them; the log says no more."""
    stage.publish("web.fetch", version="1.4.2")
    stage.publish("echo")
    graph = two()
    graph.add("echo", key="c", after="b")
    contracts = stage.runs.contracts()
    with stage.scheduler(at_once), Client(stage.url) as client:
        run = client.submit(graph)
        assert stage.ended(run.id) == ["succeeded"]
        summary = run.summary()
        assert (summary.graph_version, summary.hash) == ("7", graph.hash)
        assert summary.versions == {
            "echo": {"contract": contract_hash(contracts["echo"])},
            "web.fetch": {"contract": contract_hash(contracts["web.fetch"]), "version": "1.4.2"},
        }
        assert [it.version for it in run.nodes()] == ["1.4.2", "1.4.2", ""]
    assert told(stage, run.id, "dispatch") == ["", "", ""]
    shown = CliRunner().invoke(main, ["runs", "show", run.id, "--nodes", "--redis", stage.url]).output
    for text in ("two, version 7", graph.hash, "web.fetch 1.4.2"):
        assert text in shown
    document = json.loads(CliRunner().invoke(main, ["runs", "show", run.id, "-o", "json", "--redis", stage.url]).output)
    assert (document["graph_version"], document["versions"]) == ("7", summary.versions)
    idle(stage)


def becomes(stage: Stage, scheduler: Scheduler, version: str) -> None:
    """Workers with another version of the executor have come up, and the scheduler knows."""
    stage.publish("web.fetch", version=version)
    scheduler._learning.look_again()
    eventually(lambda: scheduler._dispatch.admission._versions == {"web.fetch": version})


def test_a_minor_version_goes_on_and_the_log_says_so(stage: Stage, memory: MemoryTransport, tmp_path: Path) -> None:
    """An attempt's version is the recorded one, or stands in the line that sent it; replay is equal."""
    stage.publish("web.fetch", version="1.4")
    worker = Echo(stage.attempts)
    with stage.scheduler(memory) as scheduler, Client(stage.url) as client:
        run = client.submit(two())
        eventually(lambda: len(memory.sent) == 1)
        becomes(stage, scheduler, "1.5")
        worker.take(tasks(memory))
        eventually(lambda: len(memory.sent) == 2)
        worker.take(tasks(memory)[1:])
        assert stage.ended(run.id) == ["succeeded"]
        assert scheduler.counts["other versions"] == 0
        assert run.explain(check=True).differs == []
    assert told(stage, run.id, "dispatch") == ["", "version 1.5 of web.fetch, 1.4 at submit"]
    decided_again(stage, run.id, tmp_path)
    idle(stage)


def test_another_major_version_is_not_sent_to(stage: Stage, memory: MemoryTransport, tmp_path: Path) -> None:
    """The attempt fails as contract, naming run, executor, both versions and what to do; replay and why are equal."""
    stage.publish("web.fetch", version="1.4")
    worker = Echo(stage.attempts)
    with stage.scheduler(memory) as scheduler, Client(stage.url) as client:
        run = client.submit(two(retry=3))
        eventually(lambda: len(memory.sent) == 1)
        becomes(stage, scheduler, "2.0")
        worker.take(tasks(memory))
        assert stage.ended(run.id) == ["failed"]
        assert scheduler.counts["other versions"] == 1
        assert run.explain("b", check=True).differs == []
    error = json.loads(stage.runs.values(run.id, [1])[1])
    assert (error["kind"], error["type"], error["phase"]) == ("contract", "VersionMismatch", "route")
    for text in (run.id, "'b'", "'web.fetch'", "2.0 now", "1.4 when", "Submit the graph again", "executor_version='1'"):
        assert text in error["message"]
    assert stage.words(run.id, 1) == ["ready", "dispatch", "fail"]
    assert [task.node for task in worker.done] == ["a"], "what has been sent ends where it is"
    decided_again(stage, run.id, tmp_path)
    with stage.scheduler(AtOnce(Echo(stage.attempts))), Client(stage.url) as client:
        again_ = client.submit(two())
        assert stage.ended(again_.id) == ["succeeded"], "submitted again it runs with the new one"
    idle(stage)


def test_nodes_that_wait_for_room_are_judged_when_it_comes(stage: Stage, memory: MemoryTransport) -> None:
    """What became ready under the old version and would be sent under the new one is refused, all of it."""
    stage.publish("web.fetch", version="1.0")
    graph = Graph("wide")
    for number in range(30):
        graph.add("web.fetch", key=str(number))
    worker = Echo(stage.attempts)
    with stage.scheduler(memory, standard_low={"window": 2}) as scheduler, Client(stage.url) as client:
        run = client.submit(graph)
        eventually(lambda: len(memory.sent) == 2)
        becomes(stage, scheduler, "2.0")
        worker.take(tasks(memory))
        assert stage.ended(run.id) == ["failed"]
        assert scheduler.counts["other versions"] == 28
    assert sorted(stage.states(run.id).values()) == ["failed"] * 28 + ["succeeded"] * 2
    idle(stage)


@pytest.mark.parametrize(
    ("before", "now"), [("1.4", None), (None, "2.0"), ("blue", "green"), (None, None), ("1.4", "1")]
)
def test_an_executor_without_a_version_is_never_refused(
    stage: Stage, at_once: AtOnce, before: str | None, now: str | None
) -> None:
    """At submit or later, also when a node asks for one."""
    stage.publish("web.fetch", version=before)
    with Client(stage.url) as client:
        run = client.submit(two(**({} if before == "1.4" else {"executor_version": "2"})))
        stage.publish("web.fetch", version=now)
        with stage.scheduler(at_once):
            assert stage.ended(run.id) == ["succeeded"]
    idle(stage)


def test_a_node_gets_the_version_that_it_asks_for_or_none(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """At submit by an error, and at dispatch when nobody looked at submit; the ladder may go on with another."""
    stage.publish("web.fetch", version="1.4")
    stage.publish("cache", version="5")
    with stage.scheduler(at_once), Client(stage.url) as client:
        with pytest.raises(VersionMismatch, match=r"has version 1\.4 now, and the node asks for 2"):
            client.submit(two(executor_version="2"))
        assert client.runs() == []
        run = client.submit(two(executor_version="2"), check=False)
        assert stage.ended(run.id) == ["failed"]
        assert "asks for 2. Start workers" in json.loads(stage.runs.values(run.id, [0])[0])["message"]
        assert run.summary().versions == {}
        laddered = two(executor_version="2", retry=Retry(steps=[again(3), other("cache")]))
        run = client.submit(laddered, check=False)
        assert stage.ended(run.id) == ["succeeded"]
        assert [it.fallback_from for it in run.nodes()] == ["web.fetch", "web.fetch"]
    assert told(stage, run.id, "dispatch")[-1].endswith("; version 5 of cache")
    idle(stage)


def test_who_is_found_at_dispatch_is_told_with_its_version(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """A capability's executor may be replaced by one of any version; only what a node asks for is compared."""
    bindings = Capabilities(stage.client, stage.namespace)
    stage.publish("a.llm", capabilities=["generate"], version="1.2")
    bindings.bind("generate", "a.llm")
    graph = Graph("g")
    graph.add(capability("generate"), key="n")
    graph.add(capability("generate"), key="m", executor_version="2", after="n", trigger_rule="all_done")
    with stage.scheduler(at_once), Client(stage.url) as client:
        run = client.submit(graph, check=False)
        assert stage.ended(run.id) == ["failed"]
        assert stage.states(run.id) == {"n": "succeeded", "m": "failed"}
    assert told(stage, run.id, "dispatch")[0] == "capability generate: executor a.llm, bound; version 1.2 of a.llm"
    idle(stage)
