"""Pause and resume in the loop, on a real Redis: nothing is sent meanwhile, nothing is lost, whoever owns the shard."""

from __future__ import annotations

import pytest

from scheduler import Client
from scheduler.graph import Graph, Retry
from tests.integration.echo import AtOnce, Echo, echo, failure, value
from tests.integration.stage import Stage, eventually, idle, layers


def forked() -> Graph:
    """A slow node, and two that wait for it."""
    graph = Graph("forked", retry=Retry(2, base_seconds=0.01))
    slow = graph.add("echo", key="slow")
    graph.add("echo", key="next", after=slow)
    graph.add("echo", key="other", after=slow)
    return graph


def test_a_paused_run_sends_nothing_and_goes_on_when_resumed(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """What is out ends and counts; what becomes ready waits, and says why; who did it and why stands in the log."""
    worker.act = lambda task: None if task.node == "slow" else echo(task)
    with stage.scheduler(at_once), Client(stage.url, namespace=stage.namespace) as client:
        run = stage.submit(forked())
        handle = client.run(run)
        eventually(lambda: stage.states(run)["slow"] == "dispatched", "the slow one is out")
        handle.pause("let me look", by="ann")
        eventually(lambda: handle.state == "paused", "the pause")
        worker.attempts.report([worker.report(stage.attempt(run, 0), value("done"), 1)])
        eventually(lambda: stage.states(run)["slow"] == "succeeded", "the report counts")
        views = {it.key: it for it in handle.nodes()}
        assert views["next"].state.word == "ready"
        assert views["next"].why == "the run is paused by ann: let me look"
        assert worker.nodes() == ["slow"]
        [wait] = handle.explain("next").waits
        assert wait.why == "paused by ann: let me look"
        handle.resume(by="bob")
        assert stage.ended(run) == ["succeeded"]
        waits = [it.why for it in handle.explain("next", check=True).waits]
        assert waits == ["paused by ann: let me look", "resumed by bob"]
    told = [(word, why) for node, word, _, _, why in stage.moves(run) if node == -1]
    assert told[:2] == [("paused", "paused by ann: let me look"), ("running", "resumed by bob")]
    assert sorted(worker.nodes()) == ["next", "other", "slow"]
    idle(stage)


def test_a_pause_outlives_its_scheduler(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """The next owner sends nothing either, and sends all of it when it is resumed."""
    with stage.scheduler(at_once):
        pass
    run = stage.submit(layers(20, 2))
    stage.runs.pause(run, "", "")
    with stage.scheduler(at_once):
        eventually(lambda: stage.runs.summary(run).state == "paused", "the pause")
    begun = len(worker.done)
    stage.owners_vanish()
    with stage.scheduler(at_once) as scheduler:
        eventually(lambda: scheduler.name in str(stage.client.hgetall(stage.keys.owners)), "its shards")
        other = stage.submit(layers(1))
        assert stage.runs.summary(run).state == "paused"
        eventually(lambda: stage.runs.summary(other).state == "succeeded", "another run's end")
        assert len([task for task in worker.done if run in task.id]) == begun
        stage.runs.resume(run, "", "")
        assert stage.ended(run) == ["succeeded"]
    idle(stage)


@pytest.mark.parametrize("verb", ["cancel", "deadline"])
def test_a_paused_run_can_be_ended(stage: Stage, worker: Echo, at_once: AtOnce, verb: str) -> None:
    """By a cancel, and by its deadline, which a pause does not stop."""
    worker.act = lambda task: None
    with stage.scheduler(at_once):
        run = stage.submit(forked(), **({"deadline_ms": 400} if verb == "deadline" else {}))
        eventually(lambda: stage.states(run)["slow"] == "dispatched", "the slow one is out")
        stage.runs.pause(run, "", "")
        if verb == "cancel":
            eventually(lambda: stage.runs.summary(run).state == "paused", "the pause")
            worker.attempts.report([worker.report(stage.attempt(run, 0), value("done"), 1)])
            eventually(lambda: stage.states(run)["slow"] == "succeeded", "its end")
            stage.runs.cancel(run, "enough")
        assert stage.ended(run) == ["cancelled" if verb == "cancel" else "failed"]
    assert "dispatched" not in stage.states(run).values()
    idle(stage)


def test_waits_between_tries_end_in_a_pause_and_the_try_waits_for_the_resume(
    stage: Stage, worker: Echo, at_once: AtOnce
) -> None:
    """A failed attempt's timer fires; its next try is numbered, and goes out when the run goes on."""
    worker.act = lambda task: failure(retry_after_ms=200) if task.attempt == 1 and task.node == "slow" else echo(task)
    with stage.scheduler(at_once):
        run = stage.submit(forked())
        eventually(lambda: stage.states(run)["slow"] == "waiting", "the wait")
        stage.runs.pause(run, "", "")
        eventually(lambda: stage.words(run, 0)[-1] == "wake", "the end of the wait")
        assert stage.runs.summary(run).state == "paused"
        assert len(worker.done) == 1
        stage.runs.resume(run, "", "")
        assert stage.ended(run) == ["succeeded"]
    assert [task.attempt for task in worker.done if task.node == "slow"] == [1, 2]
    idle(stage)


def test_a_pause_and_a_resume_in_one_turn_send_each_node_once(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """Also nodes that became ready in that very turn; found by the fault table."""
    worker.act = lambda task: None if task.node == "slow" else echo(task)
    with stage.scheduler(at_once):
        run = stage.submit(forked())
        eventually(lambda: stage.states(run)["slow"] == "dispatched", "the slow one is out")
    worker.attempts.report([worker.report(stage.attempt(run, 0), value("done"), 1)])
    stage.runs.pause(run, "", "")
    stage.runs.resume(run, "", "")
    with stage.scheduler(at_once):
        assert stage.ended(run) == ["succeeded"]
    for node in range(3):
        assert stage.words(run, node) == ["ready", "dispatch", "succeed"]
    idle(stage)


def test_a_pause_of_what_is_paused_or_over_changes_nothing(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """Nor does a resume of what runs; verbs that come twice are one."""
    with stage.scheduler(at_once):
        run = stage.submit(layers(3))
        assert stage.ended(run) == ["succeeded"]
        before = stage.moves(run)
        for verb in (stage.runs.pause, stage.runs.resume, stage.runs.pause):
            verb(run, "again", "ann")
        eventually(stage.quiet, "quiet")
        assert stage.moves(run) == before
    idle(stage)
