"""A scheduler that dies between any two writes: the next one finishes the run as if nothing had happened.

How they die is told in lives.py. A few of these deaths are real ones, of processes, in test_killed.py.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from scheduler.core import verbs
from scheduler.graph import Graph, Retry, changed, other, size
from scheduler.wire import RunId
from tests.integration.echo import Echo, Ending, Task, echo, failure, loss
from tests.integration.invariants import check
from tests.integration.lives import Fate, Life
from tests.integration.stage import Stage


@pytest.fixture
def stage(redis_url: str) -> Stage:
    """An installation of one shard: what happens in others is none of a run's business."""
    return Stage(redis_url, shards=1)


def everything() -> Graph:
    """Every way a node can go, in one small graph."""
    graph = Graph("everything", retry=Retry(max_attempts=3, base_seconds=0.001, cap_seconds=0.002))
    a = graph.add("echo", key="a", value="ä%s{}'\"")
    b = graph.add("echo", key="b", value=a.out.value)
    big = graph.add("echo", key="big", value=a)
    flaky = graph.add("echo", key="flaky", after=a)
    lost = graph.add("echo", key="lost", after=a)
    broken = graph.add("echo", key="broken", after=a)
    graph.add("echo", key="after broken", after=broken)
    graph.add("echo", key="rescue", error=broken.error, trigger_rule="one_failed")
    graph.add("echo", key="left out", after=a, trigger_rule="all_failed")
    graph.add("echo", key="join", b=b, big=big, after=[flaky, lost])
    route = graph.choice("route", {"wide": big.out.value.value == "ä%s{}'\""}, otherwise="narrow")
    for branch in route.branches:
        graph.add("echo", key=branch, taken=route.out.branch, after=route[branch], when=b.state == "succeeded")
    graph.add("echo", key="shut", after=b.when(size(b.out.value) > 100))
    graph.add("echo", key="no value", when=b.out.nothing > 1)
    steps = [changed({"x": 2}, on=["permanent"]), other("understudy", inputs={"word": a.out.value})]
    graph.add("echo", key="ladder", x=1, after=a, retry=Retry(steps=steps))
    return graph


ENDS = {
    "a": "succeeded",
    "b": "succeeded",
    "big": "succeeded",
    "flaky": "succeeded",
    "lost": "succeeded",
    "broken": "failed",
    "after broken": "upstream_failed",
    "rescue": "succeeded",
    "left out": "skipped",
    "join": "succeeded",
    "route": "succeeded",
    "wide": "succeeded",
    "narrow": "skipped",
    "shut": "skipped",
    "no value": "failed",
    "ladder": "succeeded",
}
TRIES = {"a": 1, "b": 1, "big": 1, "flaky": 2, "lost": 2, "broken": 1, "rescue": 1, "join": 1, "wide": 1, "ladder": 3}


def act(task: Task) -> Ending | None:
    """What each node of `everything` does."""
    if task.node == "flaky" and task.attempt == 1:
        return failure()
    if task.node == "lost" and task.attempt == 1:
        return loss()
    if task.node == "ladder" and task.executor == "echo":
        return failure("permanent")
    if task.node == "broken":
        return failure("permanent", "for good")
    if task.node == "big":
        return Ending(value=task.kwargs, kind="blob")
    return echo(task)


@pytest.fixture
def life(stage: Stage, fate: Fate) -> Life:
    """An installation whose workers do what `act` says."""
    stage.publish("echo", "understudy")
    return Life(stage, fate, Echo(stage.attempts, act))


def outcome(stage: Stage, run: RunId, worker: Echo) -> None:
    """The run of `everything` ended as it must, and nothing was done twice."""
    assert stage.runs.summary(run).state == "failed"  # "after broken" is a last node
    assert stage.states(run) == ENDS
    mine = [task for task in worker.done if run in task.id]
    assert Counter(task.node for task in mine) == TRIES
    assert len({task.id for task in mine}) == len(mine)
    [join] = [task for task in mine if task.node == "join"]
    big = f"{{cel:0}}:blob:{stage.attempt(run, 2)}"
    assert join.kwargs == {"b": {"value": "ä%s{}'\""}, "big": {"blob": big, "path": []}}
    assert join.headers["celeriac"]["deferred"] == [[1, "big"]]
    [rescue] = [task for task in mine if task.node == "rescue"]
    assert rescue.kwargs["error"]["message"] == "for good"
    [wide] = [task for task in mine if task.node == "wide"]
    assert wide.kwargs == {"taken": "wide"}
    rungs = [(task.executor, task.kwargs) for task in mine if task.node == "ladder"]
    assert rungs == [("echo", {"x": 1}), ("echo", {"x": 2}), ("understudy", {"word": "ä%s{}'\""})]


def test_a_death_between_any_two_writes_changes_no_outcome(stage: Stage, life: Life) -> None:
    """Killed at every instant in turn, a run ends as it would have, each attempt done once and no node lost."""
    dies_at = 0
    while True:
        dies_at += 1
        run = stage.submit(everything())
        survived = life.live(dies_at)
        if not survived:
            assert life.live(), f"killed at instant {dies_at}"
        assert stage.quiet(), f"killed at instant {dies_at}, something is left: {stage.in_flight()}"
        outcome(stage, run, life.worker)
        if survived:
            break
    assert dies_at > 50
    check(stage.client, idle=True)


def test_deaths_one_after_the_other_change_no_outcome(stage: Stage, life: Life) -> None:
    """However often schedulers die on the way, at whatever instants, the outcome is the same."""
    chance = random.Random(7)
    for _ in range(20):
        run = stage.submit(everything())
        while not life.live(chance.randrange(1, 60)):
            pass
        outcome(stage, run, life.worker)
    check(stage.client, idle=True)


ONE_SILENT = {"celeriac": 1, "name": "one", "nodes": [{"key": "silent", "executor": "echo"}]}


def stopped() -> Graph:
    """Of all that may stand open when a run is stopped, one each: running, waiting for a retry, pending."""
    graph = Graph("stopped", retry=Retry(max_attempts=3, base_seconds=3000, cap_seconds=3000))
    runs = graph.add("echo", key="silent")
    graph.add("echo", key="pending", after=runs)
    graph.add("echo", key="failing")
    return graph


def never_ending(task: Task) -> Ending | None:
    """What each node of `stopped` does."""
    return None if task.node == "silent" else failure(retry_after_ms=3_000_000)


@pytest.mark.parametrize("graph", [stopped, lambda: Graph.from_document(ONE_SILENT)], ids=["all kinds", "running only"])
def test_a_death_while_a_run_is_cancelled_changes_no_outcome(
    stage: Stage, fate: Fate, monkeypatch: pytest.MonkeyPatch, graph: Callable[[], Graph]
) -> None:
    """A cancellation that was broken off at any instant is completed: every node ends, none begins."""
    monkeypatch.setattr(verbs, "GRACE_MS", 5)
    stage.publish("echo")
    worker = Echo(stage.attempts, never_ending)
    life = Life(stage, fate, worker)
    dies_at, survived = 0, False
    while not survived:
        dies_at += 1
        run = stage.submit(graph())
        assert life.live(until=lambda: [state[0] for state in stage.in_flight().values()] == ["c"])
        done = len(worker.done)
        stage.runs.cancel(run, "enough")
        survived = life.live(dies_at)
        if not survived:
            assert life.live(), f"killed at instant {dies_at}"
        assert stage.quiet(), f"killed at instant {dies_at}, something is left"
        summary = stage.runs.summary(run)
        assert (summary.state.value, summary.reason) == ("cancelled", "cancelled: enough")
        assert set(stage.states(run).values()) == {"cancelled"}
        assert len(worker.done) == done
    assert dies_at > 10
    check(stage.client, idle=True)


def test_a_death_when_the_deadline_passes_changes_no_outcome(stage: Stage, fate: Fate) -> None:
    """A deadline that passed while nobody looked, or whose end was broken off, fails the run with its reason."""
    stage.publish("echo")
    worker = Echo(stage.attempts, never_ending)
    life = Life(stage, fate, worker)
    dies_at, survived = 0, False
    while not survived:
        dies_at += 1
        run = stage.submit(stopped(), deadline_ms=60_000)
        shard = stage.keys.shard(stage.runs.shard(run))
        assert life.live(until=lambda: [state[0] for state in stage.in_flight().values()] == ["c"])
        stage.client.zadd(shard.timers, {f"{run} deadline": 1}, xx=True)
        stage.client.hset(shard.run(run), "deadline_ms", 0)  # as if the time had passed
        survived = life.live(dies_at)
        if not survived:
            assert life.live(), f"killed at instant {dies_at}"
        assert stage.quiet(), f"killed at instant {dies_at}, something is left"
        summary = stage.runs.summary(run)
        assert (summary.state.value, summary.reason) == ("failed", "the run's deadline passed")
        assert set(stage.states(run).values()) == {"cancelled"}
    assert dies_at > 10
    check(stage.client, idle=True)


def test_a_death_while_a_run_is_retried_changes_no_outcome(stage: Stage, fate: Fate) -> None:
    """A retry that was broken off at any instant goes on: what failed runs once more, what succeeded never again."""
    stage.publish("echo")
    graph = Graph("retried")
    fine = graph.add("echo", key="fine", x=1)
    broken = graph.add("echo", key="broken", x=fine)
    graph.add("echo", key="after", after=broken)
    graph.add("echo", key="rescue", error=broken.error, trigger_rule="one_failed")
    failing, mended = Echo(stage.attempts, act), Echo(stage.attempts)
    dies_at, survived = 0, False
    while not survived:
        dies_at += 1
        run = stage.submit(graph)
        assert Life(stage, fate, failing).live()
        ends = {"fine": "succeeded", "broken": "failed", "after": "upstream_failed", "rescue": "succeeded"}
        assert stage.states(run) == ends
        mended.done.clear()
        stage.runs.retry(run, "mended")
        survived = Life(stage, fate, mended).live(dies_at)
        if not survived:
            assert Life(stage, fate, mended).live(), f"killed at instant {dies_at}"
        assert stage.quiet(), f"killed at instant {dies_at}, something is left"
        assert stage.runs.summary(run).state == "succeeded", f"killed at instant {dies_at}"
        assert stage.states(run) == ends | {"broken": "succeeded", "after": "succeeded", "rescue": "skipped"}
        assert mended.nodes() == ["broken", "after"]
        assert mended.done[0].kwargs == {"x": {"x": 1}}
    assert dies_at > 20
    check(stage.client, idle=True)


def four() -> Graph:
    """`hold` never ends by itself; b after a, c after both, d after b alone."""
    graph = Graph("four", retry=1)
    a, hold = graph.add("echo", key="a", x=1), graph.add("echo", key="hold")
    b = graph.add("echo", key="b", x=a)
    graph.add("echo", key="c", after=[b, hold], trigger_rule="all_done")
    graph.add("echo", key="d", x=b)
    return graph


def held(task: Task) -> Ending | None:
    """`hold` is silent, the others do their work."""
    return None if task.node == "hold" else echo(task)


REQUESTS: dict[str, tuple[list[tuple[str, dict[str, Any]]], dict[str, str], str]] = {
    "rerun": (
        [("rerun", {"nodes": ["a"]}), ("complete", {"nodes": ["hold"], "output": "1"})],
        {"a": "succeeded", "b": "succeeded", "c": "succeeded", "d": "succeeded", "hold": "succeeded"},
        "succeeded",
    ),
    "cancel": (
        [("cancel_nodes", {"nodes": ["hold"], "at_once": True})],
        {"a": "succeeded", "b": "succeeded", "c": "succeeded", "d": "succeeded", "hold": "cancelled"},
        "succeeded",
    ),
    "skip": (
        [("skip", {"nodes": ["c"]}), ("cancel_nodes", {"nodes": ["hold"]})],
        {"a": "succeeded", "b": "succeeded", "c": "skipped", "d": "succeeded", "hold": "cancelled"},
        "succeeded",
    ),
    "limits": (
        [
            ("set_deadline", {"at_ms": 4_000_000_000_000}),
            ("set_priority", {"priority": 3}),
            ("set_deadline", {"at_ms": None}),
            ("complete", {"nodes": ["hold"], "output": "1"}),
        ],
        {"a": "succeeded", "b": "succeeded", "c": "succeeded", "d": "succeeded", "hold": "succeeded"},
        "succeeded",
    ),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_a_death_while_people_act_on_a_running_run_changes_no_outcome(
    stage: Stage, fate: Fate, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that were broken off at any instant are answered by the next scheduler, once, and the run ends."""
    monkeypatch.setattr("scheduler.core.node_verbs.GRACE_MS", 5)
    requests, ends, state = REQUESTS[what]
    stage.publish("echo")
    dies_at, survived = 0, False
    while not survived:
        dies_at += 1
        run = stage.submit(four())
        worker = Echo(stage.attempts, held)
        ready = {"a", "b", "d"}

        def begun(run: RunId = run, ready: set[str] = ready) -> bool:
            states = stage.states(run)
            claimed = [it[:1] for it in stage.in_flight().values()]
            return all(states[key] == "succeeded" for key in ready) and claimed == ["c"]

        assert Life(stage, fate, worker).live(until=begun)
        for number, (kind, fields) in enumerate(requests, 1):
            stage.runs.ask(kind, run, "so be it", "ann", number=number, **fields)
        survived = Life(stage, fate, worker).live(dies_at)
        if not survived:
            assert Life(stage, fate, worker).live(), f"killed at instant {dies_at}"
        assert stage.quiet(), f"killed at instant {dies_at}, something is left"
        summary = stage.runs.summary(run)
        assert summary.state == state, f"killed at instant {dies_at}: {summary.reason}"
        assert stage.states(run) == ends, f"killed at instant {dies_at}"
        assert sorted(act.number for act in summary.acts) == list(range(1, len(requests) + 1))
        assert summary.deadline_at_ms is None
    assert dies_at > 10
    check(stage.client, idle=True)


@pytest.mark.parametrize("verb", ["rerun", "complete"])
def test_a_death_while_an_ended_run_is_opened_by_hand_changes_no_outcome(stage: Stage, fate: Fate, verb: str) -> None:
    """A re-run, or an output for what had failed, goes on from where it was broken off; the rest never runs again."""
    stage.publish("echo")
    graph = Graph("opened", retry=1)
    fine = graph.add("echo", key="fine", x=1)
    broken = graph.add("echo", key="broken", x=fine)
    after = graph.add("echo", key="after", x=broken)
    graph.add("echo", key="last", after=after, trigger_rule="all_done")
    failing = Echo(stage.attempts, lambda task: failure("permanent") if task.node == "broken" else echo(task))
    dies_at, survived = 0, False
    while not survived:
        dies_at += 1
        run = stage.submit(graph)
        assert Life(stage, fate, failing).live()
        assert stage.states(run)["after"] == "upstream_failed"
        mended = Echo(stage.attempts)
        more = {"output": "7"} if verb == "complete" else {}
        stage.runs.ask(verb, run, "mended", "ann", nodes=["broken"], number=9, **more)
        survived = Life(stage, fate, mended).live(dies_at)
        if not survived:
            assert Life(stage, fate, mended).live(), f"killed at instant {dies_at}"
        assert stage.quiet(), f"killed at instant {dies_at}, something is left"
        assert stage.runs.summary(run).state == "succeeded", f"killed at instant {dies_at}"
        assert set(stage.states(run).values()) == {"succeeded"}, f"killed at instant {dies_at}"
        wanted = ["after", "last"] if verb == "complete" else ["broken", "after", "last"]
        assert mended.nodes() == wanted, f"killed at instant {dies_at}"
        assert mended.done[-2].kwargs == {"x": 7 if verb == "complete" else {"x": {"x": 1}}}
        assert [act.number for act in stage.runs.summary(run).acts] == [9]
    assert dies_at > 10
    check(stage.client, idle=True)
