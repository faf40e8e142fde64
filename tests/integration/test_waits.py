"""Waits in the loop, on a real Redis: what is told from outside arrives, once, whoever owns the shard and whenever it
dies; a timer of 90 days fires once.
"""

from __future__ import annotations

import json

import pytest

from scheduler import AnswerRefused, Client, InvalidValue, NodeFailed, NodeNotFound, SignalRefused, Timing
from scheduler.graph import Graph, Retry, again, escalate
from scheduler.store.audit import audit
from scheduler.wire import RunId
from tests.integration.echo import AtOnce, Echo, Ending, Task, echo, failure, value
from tests.integration.invariants import check
from tests.integration.lives import Fate, Life
from tests.integration.stage import Stage, eventually, idle, layers

DAY_MS = 86_400_000


def due(stage: Stage, run: RunId, name: str) -> int:
    """When a timer of a run is due, ms since 1970; 0 when it is not set."""
    return int(stage.client.zscore(stage.keys.shard(stage.runs.shard(run)).timers, f"{run} {name}") or 0)


def pass_time(stage: Stage, run: RunId, name: str) -> None:
    """As if the time had passed: a timer is due."""
    key = stage.keys.shard(stage.runs.shard(run)).timers
    assert stage.client.zadd(key, {f"{run} {name}": 1}, xx=True, ch=True) == 1
    stage.unblock()


def waits(stage: Stage, run: RunId, *nodes: str) -> None:
    """Wait until nodes wait."""
    eventually(lambda: all(stage.states(run)[node] == "waiting" for node in nodes), f"{nodes} to wait")


def number(stage: Stage, run: RunId, key: str) -> int:
    """The number of a node."""
    return stage.load(run).keys.index(key)


def test_what_is_told_from_outside_ends_waits_and_is_handed_on(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """A signal, an answer and the end of a job outside; who follows gets what was told, the log says who told it."""
    graph = Graph("outside")
    paid = graph.signal("paid", schema={"type": "object", "required": ["sum"]})
    review = graph.approval("review", "Publish?", choices=["yes", "no"], form={"type": "string"}, shown={"sum": paid})
    render = graph.add("echo", key="render", timing=Timing(outside="2h"))
    graph.add("echo", key="last", paid=paid.out.sum, by=review.out.by, said=review.out.answer, pages=render.out.pages)
    with stage.scheduler(at_once), Client(stage.url, namespace=stage.namespace) as client:
        run = client.run(stage.submit(graph))
        waits(stage, run.id, "paid", "render")
        run.signal("paid", {"sum": 7}, by="shop")
        waits(stage, run.id, "review")
        [asked] = client.approvals()
        assert (asked.run, asked.node, asked.question, asked.choices) == (run.id, "review", "Publish?", ("yes", "no"))
        run.answer("review", "yes", "fine", comment="at last", by="ann")
        assert client.approvals() == []
        client.complete(stage.attempt(run.id, number(stage, run.id, "render")), {"pages": 3})
        assert stage.ended(run.id) == ["succeeded"]
        assert run.get("review") | {"at_ms": 0} == {
            "choice": "yes",
            "by": "ann",
            "comment": "at last",
            "answer": "fine",
            "at_ms": 0,
        }
    [last] = [task for task in worker.done if task.node == "last"]
    assert last.kwargs == {"paid": 7, "by": "ann", "said": "fine", "pages": 3}
    told = {word: why for _, word, _, _, why in stage.moves(run.id) if word in ("resolve", "hand_over")}
    assert told["resolve"].startswith("yes, by ann: at last")
    assert not list(audit(stage.runs))
    idle(stage)


def test_what_cannot_be_is_refused_where_it_is_told(stage: Stage, at_once: AtOnce) -> None:
    """The client says what is wrong before anything is stored; what comes past it is refused by the scheduler."""
    graph = Graph("refused")
    graph.signal("paid", schema={"type": "object", "required": ["sum"]})
    graph.approval("review", "Publish?", who=["ann"], form={"type": "string"})
    with stage.scheduler(at_once), Client(stage.url, namespace=stage.namespace) as client:
        run = client.run(stage.submit(graph))
        waits(stage, run.id, "paid", "review")
        with pytest.raises(SignalRefused, match="Did you mean 'paid'"):
            run.signal("piad")
        with pytest.raises(InvalidValue, match="'sum' is a required property"):
            run.signal("paid", {})
        with pytest.raises(InvalidValue, match="Choose one of approve, reject"):
            run.answer("review", "perhaps", by="ann")
        with pytest.raises(InvalidValue, match="is not of type 'string'"):
            run.answer("review", "approve", 7, by="ann")
        with pytest.raises(AnswerRefused, match="it asks nobody now, it is waiting"):
            run.answer("paid", "approve", by="ann")
        with pytest.raises(NodeNotFound):
            run.answer("nobody", "approve", by="ann")
        with pytest.raises(AnswerRefused, match="may not answer this"):  # the scheduler's word
            run.answer("review", "approve", "fine", by="bob")
        stage.runs.tell("signal", run.id, {"run": run.id, "name": "paid", "payload": {}})
        stage.runs.tell("answer", run.id, {"run": run.id, "node": 1, "choice": "approve", "answer": 7, "by": "ann"})
        stage.runs.tell("job", run.id, {"token": stage.attempt(run.id, 0), "output": 1})
        stage.runs.tell("signal", run.id, {"run": run.id, "name": "paid", "payload": {"sum": 1}, "key": "p"})
        stage.runs.tell("signal", run.id, {"run": run.id, "name": "paid", "payload": {"sum": 2}, "key": "p"})
        run.answer("review", "approve", "fine", by="ann")
        assert stage.ended(run.id) == ["succeeded"]
        with pytest.raises(SignalRefused, match="the run is succeeded"):
            run.signal("paid", {"sum": 1})
        with pytest.raises(AnswerRefused, match="the run is succeeded"):
            run.answer("review", "approve", "fine", by="ann")
        assert run.get("paid") == {"sum": 1}
    notes = [why for _, word, _, _, why in stage.moves(run.id) if word == "refused"]
    assert len(notes) == 3, notes
    idle(stage)


def test_two_answers_at_once_are_one_answer(stage: Stage, at_once: AtOnce) -> None:
    """Who comes second is told so, with the state that was found."""
    graph = Graph("race")
    graph.approval("review", "Publish?")
    with Client(stage.url, namespace=stage.namespace) as client:
        with stage.scheduler(at_once):
            run = client.run(stage.submit(graph))
            waits(stage, run.id, "review")
        for by in ("ann", "bob"):  # nobody decides meanwhile
            record = {"run": run.id, "node": 0, "epoch": 1, "id": by, "choice": "approve", "answer": None, "by": by}
            stage.runs.tell("answer", run.id, record)
        with stage.scheduler(at_once):
            assert stage.ended(run.id) == ["succeeded"]
        assert run.get("review")["by"] == "ann"
    idle(stage)


def test_signals_and_questions_outlive_their_scheduler(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """A signal that came early is there when, under the next owner, a node comes to wait for it."""
    worker.act = lambda task: None if task.node == "slow" else echo(task)
    graph = Graph("early")
    slow = graph.add("echo", key="slow")
    graph.add("echo", key="last", paid=graph.signal("paid", after=slow))
    graph.approval("review", "Publish?")
    with stage.scheduler(at_once), Client(stage.url, namespace=stage.namespace) as client:
        run = client.run(stage.submit(graph))
        run.signal("paid", {"sum": 7}, key="p-1")
        eventually(lambda: any(word == "signal" for _, word, *_ in stage.moves(run.id)), "the signal")
    stage.owners_vanish()
    with stage.scheduler(at_once), Client(stage.url, namespace=stage.namespace) as client:
        assert [it.node for it in client.approvals()] == ["review"]
        worker.attempts.report([worker.report(stage.attempt(run.id, number(stage, run.id, "slow")), value(1), 1)])
        eventually(lambda: stage.states(run.id)["last"] == "succeeded", "the last node")
        run.answer("review", "approve", by="ann")
        assert stage.ended(run.id) == ["succeeded"]
    assert [task.kwargs for task in worker.done if task.node == "last"] == [{"paid": {"sum": 7}}]
    idle(stage)


def test_a_timer_of_90_days_fires_once_through_restarts(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """Its instant is Redis's and stands in Redis alone; owners come and go; nothing is held for it meanwhile."""
    graph = Graph("quarter")
    graph.add("echo", key="after", due=graph.timer("nap", "90d").out.due_ms)
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        waits(stage, run, "nap")
    instant = due(stage, run, "wait:0:1")
    assert 89.9 * DAY_MS < instant - stage.runs.now_ms() <= 90 * DAY_MS
    for _ in range(3):
        stage.owners_vanish()
        with stage.scheduler(at_once):
            stage.submit(layers(1))
            eventually(lambda: stage.runs.newest(ended=False, limit=5)[0].id == run, "another run's end")
        assert due(stage, run, "wait:0:1") == instant
        assert stage.in_flight() == {}
    pass_time(stage, run, "wait:0:1")
    with stage.scheduler(at_once):
        assert stage.ended(run) == ["succeeded"]
    assert [task.kwargs for task in worker.done if task.node == "after"] == [{"due": instant}]
    assert stage.words(run, 0) == ["park", "resolve"]
    idle(stage)


def test_limits_of_time_fail_their_nodes_and_fence_what_runs(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """One that nobody claims in time, one that runs too long in all; one that was claimed in time goes on."""
    worker.act = lambda task: None if task.node != "quick" else echo(task)
    graph = Graph("limits")
    graph.add("echo", key="begun", timing=Timing(start_timeout="10m"))
    graph.add("echo", key="long", timing=Timing(total_timeout="10m"))
    graph.add("nobody", key="unbegun", timing=Timing(start_timeout="10m"))
    with stage.scheduler(at_once), Client(stage.url, namespace=stage.namespace) as client:
        run = stage.submit(graph)
        handle = client.run(run)
        eventually(lambda: len(stage.in_flight()) == 2, "two that run")
        for name in ("start:0:1", "total:1:1", "start:2:1"):
            pass_time(stage, run, name)
        eventually(lambda: stage.states(run)["unbegun"] == stage.states(run)["long"] == "failed", "both limits")
        assert stage.states(run)["begun"] == "dispatched"
        assert list(stage.in_flight()) == [stage.attempt(run, 0)]
        with pytest.raises(NodeFailed, match="no worker began it within 600 s"):
            handle.get("unbegun")
        with pytest.raises(NodeFailed, match="its attempts took longer than 600 s in all"):
            handle.get("long")
        worker.attempts.report([worker.report(stage.attempt(run, 1), value("late"), 1)])
        worker.attempts.report([worker.report(stage.attempt(run, 0), value("fine"), 1)])
        assert stage.ended(run) == ["failed"]
    assert not list(audit(stage.runs))
    idle(stage)


def test_a_person_is_asked_at_the_end_of_a_ladder(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """It is listed like an approval, whoever owns the shard; an answer sends the node again, another gives it up."""
    broken = True
    worker.act = lambda task: failure() if broken and task.node != "fine" else echo(task)
    graph = Graph("asked", retry=Retry(steps=[again(1), escalate("Go on?", ["ops"])]))
    for key in ("mended", "given up"):
        graph.add("echo", key=key)
    with stage.scheduler(at_once), Client(stage.url, namespace=stage.namespace) as client:
        run = client.run(stage.submit(graph))
        waits(stage, run.id, "mended", "given up")
    stage.owners_vanish()
    broken = False
    with stage.scheduler(at_once), Client(stage.url, namespace=stage.namespace) as client:
        asked = client.approvals()
        assert [(it.node, it.question, it.choices, it.who) for it in asked] == [
            (key, "Go on?", ("retry", "fail"), ("ops",)) for key in ("mended", "given up")
        ]
        run.answer("mended", "retry", by="ops")
        eventually(lambda: stage.states(run.id)["mended"] == "succeeded", "another try")
        run.answer("given up", "fail", comment="never mind", by="ops")
        assert stage.ended(run.id) == ["failed"]
        with pytest.raises(NodeFailed, match="ops gave it up: never mind"):
            run.get("given up")
        assert client.approvals() == []
        assert run.explain("mended", check=True).differs == []
        assert run.explain("given up", check=True).differs == []
    assert not list(audit(stage.runs))
    idle(stage)


def test_who_loses_a_race_is_stopped(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """Its attempt is fenced off at once, what it reports later counts for nothing, and its record says why."""
    worker.act = lambda task: echo(task) if task.node == "next" else None
    graph = Graph("race")
    graph.add("echo", key="next", won=graph.race("first", [graph.add("echo", key=key) for key in "abc"]).out.winners)
    with stage.scheduler(at_once), Client(stage.url, namespace=stage.namespace) as client:
        run = client.run(stage.submit(graph))
        eventually(lambda: len(stage.in_flight()) == 3, "three that run")
        ids = {key: stage.attempt(run.id, number(stage, run.id, key)) for key in "abc"}
        worker.attempts.report([worker.report(ids["b"], value(1), 1)])
        eventually(lambda: stage.in_flight() == {}, "the others are fenced off")
        worker.attempts.report([worker.report(ids["a"], value(2), 1)])
        assert stage.ended(run.id) == ["succeeded"]
        assert stage.states(run.id) == {
            "a": "cancelled",
            "b": "succeeded",
            "c": "cancelled",
            "first": "succeeded",
            "next": "succeeded",
        }
        assert run.explain("a", check=True).differs == []
        assert run.explain("first", check=True).differs == []
    assert [task.kwargs for task in worker.done if task.node == "next"] == [{"won": ["b"]}]
    assert not list(audit(stage.runs))
    idle(stage)


def everything() -> Graph:
    """Every way to wait, in one graph; "teller" tells all that is to be told."""
    graph = Graph("waits", retry=Retry(3, base_seconds=0.001, cap_seconds=0.002))
    nap = graph.timer("nap", "1ms")
    delayed = graph.add("echo", key="delayed", timing=Timing(delay="1ms", total_timeout="1h"), after=nap)
    first = graph.signal("first", name="paid")
    second = graph.signal("second", name="paid", after=[first, delayed])
    review = graph.approval("review", "?", escalate=[("1h", ["boss"])], within="2h", default="reject")
    job = graph.add("echo", key="job", timing=Timing(outside="1h"))
    graph.add("echo", key="teller", after=job.when("true"), trigger_rule="always")
    graph.signal("late", within="1ms", default=0, after=second)
    graph.race("race", [graph.signal("never"), graph.add("echo", key="fast", after=nap)])
    graph.add("echo", key="last", first=first, second=second, choice=review.out.choice, job=job)
    return graph


def test_a_death_between_any_two_writes_loses_nothing_that_was_told(redis_url: str, fate: Fate) -> None:
    """Killed at every instant in turn, every wait ends by what was told for it, and every signal ends one wait."""

    def act(task: Task) -> Ending | None:
        if task.node == "teller":
            run = RunId(task.id.split(".")[1])
            node = number(stage, run, "review")
            for it in (1, 2):
                stage.runs.tell("signal", run, {"run": run, "name": "paid", "payload": it, "key": str(it)})
            stage.runs.tell("answer", run, {"run": run, "node": node, "choice": "approve", "by": "ann"})
            stage.runs.tell("job", run, {"token": stage.attempt(run, number(stage, run, "job")), "output": 9})
        return echo(task)

    stage = Stage(redis_url, shards=1)
    stage.publish("echo")
    life = Life(stage, fate, Echo(stage.attempts, act))
    dies_at, survived = 0, False
    while not survived:
        dies_at += 1
        run = stage.submit(everything())
        survived = life.live(dies_at)
        if not survived:
            assert life.live(), f"killed at instant {dies_at}"
        assert stage.quiet(), f"killed at instant {dies_at}, something is left: {stage.states(run)}"
        states = stage.states(run)
        assert states.pop("never") == "cancelled", f"killed at instant {dies_at}: {states}"
        assert set(states.values()) == {"succeeded"}, f"killed at instant {dies_at}: {states}"
        [last] = [task for task in life.worker.done if task.node == "last" and run in task.id]
        assert last.kwargs == {"first": 1, "second": 2, "choice": "approve", "job": 9}
    assert dies_at > 40
    check(stage.client, idle=True)


def test_records_from_any_language_are_one_command(stage: Stage, at_once: AtOnce) -> None:
    """XADD with the documented JSON, by hand; what nobody can read is put aside and blocks nothing."""
    graph = Graph("by hand")
    graph.signal("paid")
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        waits(stage, run, "paid")
        inbox = f"{{cel:{stage.runs.shard(run)}}}:inbox"
        stage.client.execute_command("XADD", inbox, "*", "job", json.dumps({"v": 1, "token": "nonsense"}))
        stage.client.execute_command("XADD", inbox, "*", "answer", "[]")
        stage.client.execute_command("XADD", inbox, "*", "signal", json.dumps({"v": 1, "min_reader": 99}))
        stage.client.execute_command(
            "XADD", inbox, "*", "signal", json.dumps({"v": 1, "run": run, "name": "paid", "payload": {"sum": 7}})
        )
        assert stage.ended(run) == ["succeeded"]
    assert stage.client.xlen(stage.keys.shard(stage.runs.shard(run)).dead) == 3
