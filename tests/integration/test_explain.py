"""Explanations of real runs: facts with the ids of their records, causes to the root, then and now, and archived."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scheduler import Client, Explanation, InvalidValue, NodeNotFound
from scheduler.cli import main
from scheduler.graph import Graph, Retry
from scheduler.wire import RunId
from tests.integration.archived import at_once_to, everything, removed
from tests.integration.echo import AtOnce, Echo, Task, echo, failure, value
from tests.integration.stage import Stage, eventually, idle


def branching() -> Graph:
    """A score, a choice, what hangs on its branches, a guard, and a node whose failure is followed by three."""
    graph = Graph("why", retry=Retry(2, base_seconds=0.01))
    score = graph.add("echo", key="score", value=0.6)
    route = graph.choice("route", {"good": score.out.value >= 0.8}, otherwise="poor")
    good = graph.add("echo", key="good", after=route["good"])
    graph.add("echo", key="praise", after=good)
    graph.add("echo", key="poor", after=route["poor"])
    graph.add("echo", key="never", when=score.out.value > 1)
    broken = graph.add("echo", key="broken", after=score)
    graph.add(
        "echo", key="third", after=graph.add("echo", key="second", after=graph.add("echo", key="first", after=broken))
    )
    return graph


def fails(task: Task) -> object:
    """The broken one fails, for good at its second try."""
    return failure() if task.node == "broken" else echo(task)


def celeriac(stage: Stage, *words: str, **env: str) -> Result:
    """Run a command on this installation."""
    place = {"CELERIAC_REDIS_URL": stage.url, "CELERIAC_NAMESPACE": stage.namespace, "CELERIAC_LOG_LEVEL": "error"}
    return CliRunner().invoke(main, words, env={**place, **env})


def ids(found: Explanation) -> set[str]:
    """Of every line that an explanation cites."""
    steps = (*found.steps, *found.because)
    return {it.id for it in steps if it.id} | {fact.id for it in steps for fact in it.facts if "-" in fact.id}


@pytest.fixture
def ended(stage: Stage, worker: Echo, at_once: AtOnce) -> RunId:
    """That graph, run to its failed end."""
    worker.act = fails  # type: ignore[assignment]  # an Ending, as echo gives one
    with stage.scheduler(at_once):
        run = stage.submit(branching())
        assert stage.ended(run) == ["failed"]
    return run


def test_every_node_has_an_explanation_whose_facts_are_in_the_log(stage: Stage, ended: RunId) -> None:
    """Its ids are those of events; each decision comes out the same of what is cited; nothing is unknown."""
    with Client(stage.url, namespace=stage.namespace) as client:
        handle = client.run(ended)
        events = {it.id: it for it in handle.events(follow=False)}
        for view in handle.nodes():
            found = handle.explain(view.key, check=True)
            assert (found.state, found.unknown, found.needs) == (view.state.word, (), ())
            assert found.steps
            assert found.steps[-1].move == [it.move for it in events.values() if it.node == view.key][-1]
            assert ids(found) <= events.keys()
            assert found.differs == []
            assert {it.checked for it in (*found.steps, *found.because)} == {""}
        assert handle.explain(check=True).differs == []
    idle(stage)


def test_an_explanation_tells_the_branch_the_guard_and_the_root(stage: Stage, ended: RunId) -> None:
    """With the values that were read, upstream to the node that began it."""
    with Client(stage.url, namespace=stage.namespace) as client:
        handle = client.run(ended)
        route = handle.explain("route").steps[-1]
        assert route.move == "decide"
        assert [(it.what, it.node, it.value, it.path) for it in route.facts if it.what == "output"] == [
            ("output", "score", 0.6, ("value",))
        ]
        praise = handle.explain("praise")
        assert [(it.node, it.move) for it in praise.because] == [("good", "skip"), ("route", "decide")]
        assert [it.text for it in praise.because[0].facts] == [
            "node 'route' succeeded",
            "the edge from 'route' is closed",
        ]
        never = handle.explain("never").steps[-1]
        assert [it.text for it in never.facts if it.what == "output"] == ["'score' output.value = 0.6"]
        third = handle.explain("third")
        assert [(it.node, it.move) for it in third.because] == [
            ("second", "upstream_fail"),
            ("first", "upstream_fail"),
            ("broken", "fail"),
        ]
        root = third.because[-1]
        assert [it.what for it in root.facts] == ["dispatched", "report", "failure"]
        assert "attempt 2 failed on echo: transient, Broken: it broke" in root.facts[1].text
        assert [it.move for it in handle.explain("broken").steps] == [
            "ready",
            "dispatch",
            "retry",
            "wake",
            "dispatch",
            "fail",
        ]
        whole = handle.explain()
        assert (whole.state, [it.node for it in whole.because]) == ("failed", ["broken"])
        assert asyncio.run(handle.aexplain("third")).because[-1] == root
        with pytest.raises(NodeNotFound, match="thrid"):
            handle.explain("thrid")
        with pytest.raises(InvalidValue, match="time zone"):
            handle.explain(at=datetime(2026, 1, 1))  # noqa: DTZ001  that is the point
    idle(stage)


def test_it_can_be_asked_how_a_run_stood_then(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """From entries up to that instant alone: what had moved, what was waited for."""
    worker.act = lambda task: None if task.node == "slow" else echo(task)
    graph = Graph("then")
    slow = graph.add("echo", key="slow", after=graph.add("echo", key="quick"))
    graph.add("echo", key="last", after=slow)
    with stage.scheduler(at_once), Client(stage.url, namespace=stage.namespace) as client:
        run = stage.submit(graph)
        handle = client.run(run)
        eventually(lambda: stage.states(run)["slow"] == "dispatched", "the slow one is out")
        sent = next(it for it in handle.events(follow=False) if (it.node, it.move) == ("slow", "dispatch"))
        now = handle.explain("last")
        assert now.state == "pending"
        assert now.needs == ("all_success must be met: 1 upstream nodes have not ended: 'slow' (dispatched)",)
        assert now.steps[0].facts[0].id == sent.id
        assert handle.explain("slow").needs[0].startswith("attempt 1, which runs on echo, must end")
        assert "1 running ('slow')" in handle.explain().needs
        eventually(lambda: stage.runs.now_ms() > sent.at_ms, "another millisecond")
        worker.attempts.report([worker.report(stage.attempt(run, 1), value("done"), 1)])
        assert stage.ended(run) == ["succeeded"]
        then = handle.explain("slow", at=datetime.fromtimestamp((sent.at_ms + 0.5) / 1000, UTC))
        assert (then.state, [it.move for it in then.steps]) == ("dispatched", ["ready", "dispatch"])
        assert handle.explain("last", at=datetime.fromtimestamp((sent.at_ms + 0.5) / 1000, UTC)).state == "pending"
        assert handle.explain("quick", at=0).state == "pending"
        assert handle.explain(at=0).state == "running"
        assert handle.explain("last", at="1h").state == "succeeded"
    idle(stage)


def test_a_paused_run_says_who_must_let_it_go_on(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """With the id of the line that tells of the pause."""
    worker.act = lambda task: None
    with stage.scheduler(at_once), Client(stage.url, namespace=stage.namespace) as client:
        run = stage.submit(branching())
        eventually(lambda: stage.states(run)["score"] == "dispatched", "the first is out")
        stage.runs.pause(run, "prices change", "ann")
        eventually(lambda: stage.runs.summary(run).state == "paused", "the pause")
        handle = client.run(run)
        [line] = [it for it in handle.events(follow=False) if it.move == "paused"]
        told = f"the run must be resumed; it is paused by ann: prices change ({line.id})"
        assert handle.explain().needs[0] == told
        stage.runs.cancel(run, "enough")
        eventually(lambda: stage.runs.summary(run).state == "cancelling", "the cancel")
        worker.attempts.report([worker.report(stage.attempt(run), value("done"), 1)])
        assert stage.ended(run) == ["cancelled"]
        found = handle.explain("praise", check=True)
        assert found.differs == []
        facts = found.steps[-1].facts
        assert [it.what for it in facts] == ["asked"], facts
        assert facts[0].text == "CancelRequested: reason enough"


def test_what_a_log_has_lost_is_said(stage: Stage, ended: RunId) -> None:
    """Its oldest lines, or all of them: the records still tell the state, and nothing is made up."""
    log = stage.runs.keys_of(ended).log(ended)
    with Client(stage.url, namespace=stage.namespace) as client:
        handle = client.run(ended)
        before = handle.explain("score")
        assert stage.client.xtrim(log, maxlen=1, approximate=False)
        gone = handle.explain("score")
        assert (gone.state, gone.steps[-1].id) == (before.state, "")
        assert gone.unknown == ("the log has no line of how it became succeeded; its record says that it is",)
        assert gone.steps[-1].facts[0].id == "node 0"
        stage.client.delete(log)
        assert "its record says" in handle.explain().unknown[0]


def test_archived_runs_are_explained_as_before(
    stage: Stage, worker: Echo, at_once: AtOnce, quick: None, folder: Path
) -> None:
    """By client and command, with every process stopped and the run out of Redis."""
    worker.act = lambda task: failure("permanent") if task.node == "broken" else echo(task)
    with stage.scheduler(at_once):
        run = stage.submit(everything())
        assert stage.ended(run) == ["failed"]
        with Client(stage.url, namespace=stage.namespace) as client:
            before = client.run(run).explain("after broken", check=True)
    with stage.scheduler(at_once, retention=at_once_to(folder)):
        removed(stage, run)
    with Client(stage.url, namespace=stage.namespace, archive_url=str(folder)) as client:
        after = client.run(run).explain("after broken", check=True)
        assert (after.steps, after.because) == (before.steps, before.because)
    said = celeriac(stage, "why", run, "after broken", "--check", CELERIAC_ARCHIVE_URL=str(folder))
    assert said.exit_code == 0, said.output
    assert "broken fail" in said.stdout


def test_the_command_tells_facts_and_checks_them(stage: Stage, ended: RunId) -> None:
    """As text and as JSON; a log that was changed by another hand is noticed, with exit status 1."""
    said = celeriac(stage, "why", ended, "third")
    assert said.exit_code == 0, said.output
    assert "node third is upstream_failed" in said.stdout
    assert "because:" in said.stdout
    assert "attempt 2 failed on echo" in said.stdout
    found = json.loads(celeriac(stage, "why", ended, "third", "--json", "--check").stdout)
    assert (found["state"], found["differs"]) == ("upstream_failed", [])
    assert found["because"][-1]["facts"][0]["what"] == "dispatched"
    whole = celeriac(stage, "why", ended, "--check")
    assert (whole.exit_code, "the core decides the same" in whole.stdout) == (0, True), whole.output
    assert celeriac(stage, "why", ended, "third", "--at", "0s").stdout.startswith("node third is pending")
    assert celeriac(stage, "why", ended, "third", "--at", "yesterday").exit_code == 2
    assert celeriac(stage, "why", ended, "nobody").exit_code == 5
    log = stage.runs.keys_of(ended).log(ended)
    entries = stage.client.xrange(log)
    stage.client.delete(log)
    for id_, fields in entries:
        fields[b"moves"] = fields[b"moves"].replace(b"failed 1 of at most 2", b"failed 1 of at most 9")
        stage.client.xadd(log, fields, id=id_)
    changed = celeriac(stage, "why", ended, "broken", "--check")
    assert changed.exit_code == 1, changed.output
    assert "differs: " in changed.stdout
    assert "of at most 9 times; of the cited facts comes retry" in changed.stdout


def test_a_wait_between_two_tries_says_until_when(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """Of the node and of the run that it holds up; the try that failed is cited, and the next one cites the wait."""
    worker.act = lambda task: failure(retry_after_ms=200) if task.attempt == 1 else echo(task)
    with stage.scheduler(at_once), Client(stage.url, namespace=stage.namespace) as client:
        run = stage.submit(branching())
        assert stage.ended(run) == ["succeeded"]
        handle = client.run(run)
        [retry] = [it for it in handle.events(follow=False) if (it.node, it.move) == ("score", "retry")]
        then = datetime.fromtimestamp((retry.at_ms + 0.5) / 1000, UTC)
        found = handle.explain("score", at=then, check=True)
        assert (found.state, [it.move for it in found.steps]) == ("waiting", ["ready", "dispatch", "retry"])
        assert [it.what for it in found.steps[-1].facts] == ["dispatched", "report"]
        [need] = found.needs
        assert need.startswith("its next try is due at ")
        assert need.endswith(f"200 ms after attempt 1 failed ({retry.id})")
        assert handle.explain(at=then).needs == (f"1 waiting: {need} ('score')",)
        found = handle.explain("score", check=True)
        assert [it.move for it in found.steps][2:] == ["retry", "wake", "dispatch", "succeed"]
        assert found.steps[3].facts[0].id == retry.id
        assert found.differs == []
    idle(stage)
