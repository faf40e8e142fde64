"""Guards, choices and stop conditions in the loop, on a real Redis; test_crashes.py has them die at any instant."""

from __future__ import annotations

import pytest

from scheduler import Client, NodeFailed, NodeWithoutOutput
from scheduler.graph import Graph
from scheduler.store.audit import audit
from tests.integration.echo import AtOnce, Echo, Ending, echo, failure, value
from tests.integration.stage import Stage, eventually, idle


def test_a_run_goes_the_way_that_its_outputs_say(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """The log says what was asked and what was met; readers see the branch; nothing in the store disagrees."""
    graph = Graph("ways")
    score = graph.add("echo", key="score", value=0.6)
    found = score.out.value
    route = graph.choice("route", {"good": found >= 0.8, "fair": found >= 0.5}, otherwise="poor")
    for branch in route.branches:
        graph.add("echo", key=branch, after=route[branch])
    graph.add("echo", key="never", when=found > 1)
    graph.add("echo", key="broken", when=found > "high", after=score)
    with stage.scheduler(at_once), Client(stage.url, namespace=stage.namespace) as client:
        run = stage.submit(graph)
        assert stage.ended(run) == ["failed"]
        handle = client.run(run)
        assert handle.get("route") == {"branch": "fair"}
        with pytest.raises(NodeWithoutOutput):
            handle.get("good")
        with pytest.raises(NodeFailed, match=r"score\.output\.value = 0\.6") as failed:
            handle.get("broken")
        assert failed.value.kind == "permanent"
        views = {it.key: it for it in handle.nodes()}
        assert "its condition is false: score.output.value > 1" in views["never"].why
        assert "the edge from 'route' is closed" in views["good"].why
        assert views["route"].executor == "choice"
    assert sorted(worker.nodes()) == ["fair", "score"]
    [decided] = [move for move in stage.moves(run) if move[1] == "decide"]
    assert decided[4].endswith(
        "branch fair; good: score.output.value >= 0.8 is false (score.output.value = 0.6); "
        "fair: score.output.value >= 0.5 is true (score.output.value = 0.6)"
    )
    assert not list(audit(stage.runs))
    idle(stage)


def test_a_new_owner_knows_what_was_seen(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """Facts of nodes that ended under another scheduler are read again; a large output is fetched for it."""
    worker.act = lambda task: None if task.node == "slow" else echo(task)
    graph = Graph("takeover")
    score = graph.add("echo", key="score", value=0.9)
    slow = graph.add("echo", key="slow", after=score)
    graph.add("echo", key="late", after=slow, when=score.out.value > 0.5)
    graph.add("echo", key="not", after=slow, when=score.out.value > 0.95)
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        eventually(lambda: stage.states(run)["slow"] == "dispatched", "the slow one is out")
    with stage.scheduler(at_once):
        worker.attempts.report([worker.report(stage.attempt(run, 1), value("done"), 1)])
        assert stage.ended(run) == ["succeeded"]
    assert stage.states(run) == {"score": "succeeded", "slow": "succeeded", "late": "succeeded", "not": "skipped"}
    idle(stage)


def test_a_run_stops_when_it_has_what_it_wants(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """What had not begun is skipped with the reason, what ran ends and changes nothing; the summary says why."""
    worker.act = lambda task: None if task.node == "slow" else echo(task)
    graph = Graph("stops")
    first = graph.add("echo", key="first", quality=0.95)
    slow = graph.add("echo", key="slow")
    graph.add("echo", key="next", after=[first, slow])
    graph.stop_when(first.out.quality > 0.9, reason="good enough")
    with stage.scheduler(at_once), Client(stage.url, namespace=stage.namespace) as client:
        run = stage.submit(graph)
        eventually(lambda: stage.states(run)["next"] == "skipped", "the stop")
        node = stage.load(run).keys.index("slow")
        worker.attempts.report([worker.report(stage.attempt(run, node), failure(), 1)])
        assert stage.ended(run) == ["succeeded"]
        handle = client.run(run)
        assert handle.summary().reason.startswith("stopped: good enough: first.output.quality > 0.9 is true")
        assert "good enough" in {it.key: it.why for it in handle.nodes()}["next"]
    assert stage.states(run) == {"first": "succeeded", "slow": "failed", "next": "skipped"}
    assert not list(audit(stage.runs))
    idle(stage)


def test_a_retry_goes_the_new_way(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """What is opened again is judged by what it brings now; what stays succeeded is read from the store."""
    values = iter([0.1, 0.9])
    worker.act = lambda task: (
        failure("permanent")
        if task.node == "shaky" and task.attempt == 1
        else value({"value": next(values)})
        if task.node == "shaky"
        else echo(task)
    )
    next(values)
    graph = Graph("retried")
    base = graph.add("echo", key="base", value=1)
    shaky = graph.add("echo", key="shaky", after=base)
    graph.add("echo", key="high", when=(shaky.out.value > 0.5) & (base.out.value == 1))
    graph.add("echo", key="low", when=shaky.out.value <= 0.5)
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        assert stage.ended(run) == ["failed"]
        stage.runs.retry(run, "once more")
        eventually(lambda: stage.runs.summary(run).state == "succeeded", "the end of the retry")
        assert stage.ended(run) == ["succeeded"]
    assert stage.states(run) == {"base": "succeeded", "shaky": "succeeded", "high": "succeeded", "low": "skipped"}
    idle(stage)


def test_a_large_output_that_is_no_json_stops_nobody(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """The node that asks for a part of it fails as the policy's; neither the loop stumbles nor the next owner."""
    worker.act = lambda task: None
    graph = Graph("junk")
    big = graph.add("echo", key="big")
    graph.add("echo", key="asks", when=big.out.value > 1)
    graph.add("echo", key="other", after=big)
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        eventually(lambda: stage.states(run)["big"] == "dispatched", "the big one is out")
        report = worker.report(stage.attempt(run), Ending(value=1, kind="blob"), 1)
        stage.client.set(stage.runs.keys_of(run).blob(stage.attempt(run)), b"{no json")
        worker.attempts.report([report])
        eventually(lambda: stage.states(run)["asks"] == "failed", "the failure")
    worker.act = echo
    with stage.scheduler(at_once):
        node = stage.load(run).keys.index("other")
        worker.attempts.report([worker.report(stage.attempt(run, node), value(1), 1)])
        assert stage.ended(run) == ["failed"]
    assert stage.states(run) == {"big": "succeeded", "asks": "failed", "other": "succeeded"}
    idle(stage)
