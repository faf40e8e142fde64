"""The loop: a real scheduler in a thread, a real Redis, and workers that claim and report without Celery."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.core import decide
from scheduler.embedded import EmbeddedRedis
from scheduler.graph import Graph, Retry
from scheduler.service import dispatch, intake
from scheduler.service.loop import Scheduler
from scheduler.service.transport import MemoryTransport, Outgoing
from scheduler.store.inboxes import Inboxes
from scheduler.wire import Report
from tests.integration.echo import AtOnce, Echo, EchoWorker, Ending, Task, echo, failure, loss, value
from tests.integration.invariants import check
from tests.integration.stage import Stage, diamond, dump, eventually, layers, owned

STANDARD, INTERACTIVE = "celeriac.standard-low", "celeriac.interactive-low"
QUICK = Retry(max_attempts=3, base_seconds=0.02, cap_seconds=0.04)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases are looked at more often than in production; nothing else is changed."""
    for room in (dispatch, intake):
        monkeypatch.setattr(room, "CHECK_MS", 50)


@pytest.fixture
def worker(stage: Stage) -> Echo:
    """A worker whose `act` a test may set; `at_once` sends to it."""
    stage.publish("echo")
    return Echo(stage.attempts)


@pytest.fixture
def at_once(worker: Echo) -> AtOnce:
    """The transport to that worker."""
    return AtOnce(worker)


@pytest.fixture
def memory(stage: Stage) -> MemoryTransport:
    """A broker that keeps what it gets; no worker."""
    stage.publish("echo")
    return MemoryTransport()


def tasks(memory: MemoryTransport) -> list[Task]:
    """What was sent."""
    return [Task.from_parts(body, headers) for _, body, headers in list(memory.sent)]


def idle(stage: Stage) -> None:
    """All of Redis is as it must be when nothing is left to do."""
    check(stage.client, stage.namespace, idle=True)


# -- what a run is ------------------------------------------------------------------------------------


def test_a_diamond_runs_in_order_and_hands_its_data_on(stage: Stage) -> None:
    """Over the real broker queue: every node once, after what it waits for, with the outputs it asked for."""
    stage.publish("echo")
    with EchoWorker(stage.url, [STANDARD]) as worker, stage.scheduler():
        run = stage.submit(diamond())
        assert stage.ended(run) == ["succeeded"]
    assert sorted(worker.nodes()) == ["a", "b", "c", "d"]
    assert (worker.nodes()[0], worker.nodes()[-1]) == ("a", "d")
    by_node = {task.node: task.kwargs for task in worker.done}
    assert by_node == {
        "a": {"value": 1},
        "b": {"value": 1},
        "c": {"value": {"value": 1}},
        "d": {"left": {"value": 1}, "right": 1},
    }
    assert stage.client.llen(STANDARD) == 0
    idle(stage)


def test_a_run_goes_the_same_way_on_every_redis(stage_each: Stage) -> None:
    """Redis 6.2 and 7 give the same run."""
    stage_each.publish("echo")
    with stage_each.scheduler(AtOnce(Echo(stage_each.attempts))):
        runs = [stage_each.submit(diamond()) for _ in range(20)]
        assert stage_each.ended(*runs) == ["succeeded"] * 20
    idle(stage_each)


def test_a_run_submitted_before_any_scheduler_lives_is_found(stage: Stage, at_once: AtOnce) -> None:
    """Its entry waits in the inbox."""
    run = stage.submit(diamond())
    with stage.scheduler(at_once):
        assert stage.ended(run) == ["succeeded"]
    idle(stage)


def test_a_wide_graph_goes_out_in_pages(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """2,500 nodes that become ready with one event are sent and recorded in several commits, each node once."""
    worker.act = lambda task: Ending(kind="none")
    graph = Graph("wide")
    start = graph.add("echo", key="start")
    wide = [graph.add("echo", after=start) for _ in range(2_500)]
    graph.add("echo", key="end", after=wide)
    with stage.scheduler(at_once, standard_low={"window": 4_000}):
        run = stage.submit(graph)
        assert stage.ended(run, seconds=60) == ["succeeded"]
    assert len(worker.done) == len({task.id for task in worker.done}) == 2_502
    assert worker.nodes()[-1] == "end"
    idle(stage)


# -- data ---------------------------------------------------------------------------------------------


def test_references_resolve_wherever_they_stand(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """Paths through objects and lists, in args and kwargs, at any depth; a path that leads nowhere gives null."""
    made = {"rows": [{"id": 7, "näme": "Grün 🌱"}, [1, 2]], "%s": "{} %d \" ' \\ \n"}
    worker.act = lambda task: value(made) if task.node == "maker" else echo(task)
    graph = Graph("paths")
    maker = graph.add("echo", key="maker")
    out = maker.out
    graph.add(
        "echo",
        key="reader",
        args=[out.rows[0]["näme"], {"deep": [out.rows[1][1], maker]}],
        whole=maker,
        odd=out["%s"],
        nowhere=out.rows[9].x,
        literal={"$ref is": "not one"},
    )
    with stage.scheduler(at_once):
        assert stage.ended(stage.submit(graph)) == ["succeeded"]
    reader = worker.done[-1]
    assert reader.args == ["Grün 🌱", {"deep": [2, made]}]
    assert reader.kwargs == {
        "whole": made,
        "odd": "{} %d \" ' \\ \n",
        "nowhere": None,
        "literal": {"$ref is": "not one"},
    }
    assert reader.headers["celeriac"]["deferred"] == []
    idle(stage)


def test_an_error_is_handed_to_the_node_that_rescues(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """The rescuer gets the failure's record, and null for the output; of what succeeded, the other way round."""
    worker.act = lambda task: failure("permanent", "no such ting: ünicode") if task.node == "broken" else echo(task)
    graph = Graph("rescue")
    broken = graph.add("echo", key="broken")
    fine = graph.add("echo", key="fine", x=1)
    graph.add("echo", key="rescue", trigger_rule="all_done", e=broken.error, o=broken, fe=fine.error, fo=fine)
    with stage.scheduler(at_once):
        assert stage.ended(stage.submit(graph)) == ["succeeded"]
    [rescue] = [task for task in worker.done if task.node == "rescue"]
    assert rescue.kwargs["e"]["message"] == "no such ting: ünicode"
    assert {name: it for name, it in rescue.kwargs.items() if name != "e"} == {"o": None, "fe": None, "fo": {"x": 1}}
    idle(stage)


def test_large_outputs_travel_as_references(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """The message names the blob and where its content belongs; the blob lasts as long as its run."""
    worker.act = lambda task: Ending(value=["x" * 10], kind="blob") if task.node == "big" else echo(task)
    graph = Graph("blob")
    big = graph.add("echo", key="big")
    graph.add("echo", key="reader", args=[1, {"at": [big.out[0]]}], whole=big)
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        assert stage.ended(run) == ["succeeded"]
    reader = worker.done[-1]
    key = stage.keys.shard(stage.runs.shard(run)).blob(stage.attempt(run, 0))
    assert reader.args == [1, {"at": [{"blob": key, "path": [0]}]}]
    assert reader.kwargs == {"whole": {"blob": key, "path": []}}
    assert reader.headers["celeriac"]["deferred"] == [[0, 1, "at", 0], [1, "whole"]]
    assert json.loads(stage.attempts.get_blob(key) or b"") == ["x" * 10]
    assert stage.client.ttl(key) == -1
    idle(stage)


def test_an_output_is_there_for_a_reader_that_comes_much_later(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """A far descendant that failed and is tried again gets the same data, though memory had let it go."""
    worker.act = lambda task: failure() if task.node == "late" and task.attempt < 3 else echo(task)
    graph = Graph("far", retry=QUICK)
    first = graph.add("echo", key="first", x=[1, 2, 3])
    middle = graph.add("echo", key="middle", after=first)
    graph.add("echo", key="late", after=middle, x=first.out.x.of_ancestor())
    with stage.scheduler(at_once):
        assert stage.ended(stage.submit(graph)) == ["succeeded"]
    assert [task.kwargs for task in worker.done if task.node == "late"] == [{"x": [1, 2, 3]}] * 3
    idle(stage)


# -- retries and losses -------------------------------------------------------------------------------


def test_a_failed_attempt_is_tried_again_when_its_wait_is_over(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """The wait is a timer in Redis, the next attempt has the next number, and the timeline tells it all."""
    worker.act = lambda task: failure(retry_after_ms=120) if task.attempt == 1 else echo(task)
    graph = Graph("retry")
    graph.add("echo", key="a")
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        assert stage.ended(run) == ["succeeded"]
    first, second = stage.load(run).tries(0)
    assert (first.end, second.end) == ("failed", "succeeded")
    assert second.ready_at_ms - first.ended_at_ms >= 120
    assert stage.words(run, 0) == ["ready", "dispatch", "retry", "wake", "dispatch", "succeed"]
    assert [task.attempt for task in worker.done] == [1, 2]
    assert len({task.headers["celeriac"]["key"] for task in worker.done}) == 1
    idle(stage)


def test_many_waits_that_end_together_all_end(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """More timers than one look takes up are taken up all the same, at once, also when nothing else happens."""
    worker.act = lambda task: failure(retry_after_ms=1) if task.attempt == 1 else Ending(kind="none")
    with stage.scheduler(at_once, standard_low={"window": 5_000}) as scheduler:
        runs = [stage.submit(layers(700), shard=0) for _ in range(2)]
        assert stage.ended(*runs, seconds=60) == ["succeeded"] * 2
        assert scheduler.counts["published"] == 2 * 1_400
    idle(stage)


def test_a_node_out_of_attempts_fails_and_what_follows_does_not_start(
    stage: Stage, worker: Echo, at_once: AtOnce
) -> None:
    """The reason is in the log; other branches go on."""
    worker.act = lambda task: failure() if task.node == "bad" else echo(task)
    graph = Graph("limits", retry=QUICK)
    bad = graph.add("echo", key="bad")
    graph.add("echo", key="after", after=bad)
    graph.add("echo", key="other")
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        assert stage.ended(run) == ["failed"]
    assert stage.states(run) == {"bad": "failed", "after": "upstream_failed", "other": "succeeded"}
    assert sum(task.node == "bad" for task in worker.done) == 3
    [line] = [move for move in stage.moves(run) if move[1] == "upstream_fail"]
    assert line[3:] == [0, "all_success 0,1,0,0 of 1"]
    idle(stage)


def test_a_lost_attempt_is_sent_again_at_once_and_has_a_cap_of_its_own(
    stage: Stage, worker: Echo, at_once: AtOnce
) -> None:
    """Infrastructure does not use up retries; poison ends as lost."""
    worker.act = lambda task: loss() if task.node == "poison" or task.attempt < 3 else echo(task)
    graph = Graph("losses", retry=Retry(max_attempts=1, max_losses=2))
    graph.add("echo", key="unlucky")
    graph.add("echo", key="poison")
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        assert stage.ended(run) == ["failed"]
    assert stage.states(run) == {"unlucky": "succeeded", "poison": "failed"}
    assert json.loads(stage.runs.values(run, [1])[1])["kind"] == "lost"
    assert Counter(worker.nodes()) == {"unlucky": 3, "poison": 3}
    idle(stage)


def test_an_attempt_without_heartbeat_is_missed_after_its_lease(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """A worker that claimed and fell silent is replaced; what it reports afterwards changes nothing."""
    worker.act = lambda task: None if task.attempt == 1 else echo(task)
    graph = Graph("silent")
    graph.add("echo", key="a")
    with stage.scheduler(at_once, standard_low={"lease_seconds": 0.2}) as scheduler:
        run = stage.submit(graph)
        assert stage.ended(run) == ["succeeded"]
        stage.attempts.report([worker.report(stage.attempt(run, 0, 1), value("late"))])
        eventually(lambda: scheduler.counts["late"] == 1 and stage.quiet())
    first, second = stage.load(run).tries(0)
    assert (first.end, second.end) == ("lost", "succeeded")
    assert first.ended_at_ms - first.claimed_at_ms >= 200
    assert json.loads(stage.runs.values(run, [0])[0]) == {}
    idle(stage)


def test_a_heartbeat_keeps_an_attempt(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """As long as its worker renews, an attempt is not lost, however short its lease."""
    worker.act = lambda task: None
    graph = Graph("slow")
    graph.add("echo", key="a")
    with stage.scheduler(at_once, standard_low={"lease_seconds": 0.2}) as scheduler:
        run = stage.submit(graph)
        [id_] = eventually(lambda: [task.id for task in worker.done])
        until = time.monotonic() + 0.8

        def beat() -> bool:
            assert stage.attempts.renew([id_], worker.name) == {id_: True}
            return time.monotonic() > until

        eventually(beat)
        stage.attempts.report([worker.report(id_, value(1))])
        assert stage.ended(run) == ["succeeded"]
        assert scheduler.counts["leases ended"] == 0
    idle(stage)


def test_an_attempt_past_its_hard_limit_is_a_timeout(
    stage: Stage, worker: Echo, at_once: AtOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No heartbeat prolongs it past that; it counts as a failure of the executor, not as a loss."""
    monkeypatch.setattr(dispatch, "LIMIT_GRACE_MS", 50)
    worker.act = lambda task: None
    graph = Graph("hard", retry=1)
    graph.add("echo", key="a", timeout=0.2)
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        assert stage.ended(run) == ["failed"]
    error = json.loads(stage.runs.values(run, [0])[0])
    assert (error["kind"], error["type"]) == ("timeout", "TimeLimitExceeded")
    idle(stage)


# -- messages that nobody claims ----------------------------------------------------------------------


def test_a_message_that_vanished_is_sent_again(stage: Stage) -> None:
    """The broker lost it: nothing there, nothing claimed; after the deadline a new attempt goes out."""
    stage.publish("echo")
    graph = Graph("vanished")
    graph.add("echo", key="a")
    with stage.scheduler():
        run = stage.submit(graph)
        eventually(lambda: stage.client.llen(STANDARD))
        stage.client.delete(STANDARD)
        stage.lease_ends(stage.attempt(run, 0, 1))
        with EchoWorker(stage.url, [STANDARD]) as worker:
            assert stage.ended(run) == ["succeeded"]
    assert [task.attempt for task in worker.done] == [2]
    loaded = stage.load(run)
    assert (loaded.failures[0], loaded.losses[0]) == (0, 0)  # it never ran, so nobody is to blame
    idle(stage)


@pytest.mark.parametrize("executor", ["echo", 'e"ch\\o%s{0}%(id)s@@id@@ ', '"id": "1.2.3"'])
def test_a_message_that_only_waits_is_left_waiting(stage: Stage, executor: str) -> None:
    """No worker has time yet: its deadline moves on, nothing is sent twice. Whatever the executor is called."""
    stage.publish(executor)
    graph = Graph("waits")
    graph.add(executor, key="a")
    with stage.scheduler() as scheduler:
        run = stage.submit(graph)
        eventually(lambda: stage.client.llen(STANDARD))
        id_ = stage.attempt(run)
        leases = stage.keys.shard(stage.runs.shard(run)).leases
        stage.lease_ends(id_)
        eventually(lambda: (stage.client.zscore(leases, id_) or 0) > stage.runs.now_ms() + 1_000)
        assert scheduler.counts["leases ended"] == 0
        with EchoWorker(stage.url, [STANDARD]) as worker:
            assert stage.ended(run) == ["succeeded"]
    assert [(task.attempt, task.executor) for task in worker.done] == [(1, executor)]
    idle(stage)


def test_one_look_at_a_queue_serves_all_that_wait_in_it(stage: Stage, memory: MemoryTransport) -> None:
    """Hundreds of unclaimed attempts cost one reading of their queue, and a broker that is away costs one try."""
    asked: list[str] = []

    class Away(MemoryTransport):
        def waiting(self, queue: str) -> frozenset[str] | None:
            asked.append(queue)
            raise ConnectionError("away")

    with stage.scheduler(Away()) as scheduler:
        run = stage.submit(layers(200), shard=0)
        eventually(lambda: len(stage.in_flight()) == 200)
        ids = list(stage.in_flight())
        asked.clear()
        stage.client.zadd(stage.keys.shard(0).leases, dict.fromkeys(ids, 1))
        eventually(lambda: stage.client.zcount(stage.keys.shard(0).leases, 0, 1) == 0)
        assert len(asked) == 1
        assert scheduler.counts["leases ended"] == 0
        stage.runs.cancel(run, "over")
        assert stage.ended(run) == ["cancelled"]
    idle(stage)


def test_a_broker_that_is_away_gets_everything_later(stage: Stage, worker: Echo) -> None:
    """What it did not take stays in the outbox and is sent again; nothing is lost, nothing is done twice."""

    class Flaky(AtOnce):
        tries = 0

        def send(self, outgoing: Outgoing) -> None:
            Flaky.tries += 1
            if Flaky.tries % 3 != 0:
                raise ConnectionError("away")
            super().send(outgoing)

    with stage.scheduler(Flaky(worker)) as scheduler:
        run = stage.submit(diamond())
        assert stage.ended(run) == ["succeeded"]
        assert scheduler.counts["unpublished"] == 6
    assert sorted(worker.nodes()) == ["a", "b", "c", "d"]
    idle(stage)


# -- duplicates, late and broken reports --------------------------------------------------------------


def test_a_report_that_comes_twice_changes_nothing_more(stage: Stage, memory: MemoryTransport) -> None:
    """The first ends the node; repeats, contradictions and reports of other attempts are late, noted, and gone."""
    worker = Echo(stage.attempts)
    graph = Graph("twice")
    a = graph.add("echo", key="a")
    graph.add("echo", key="b", after=a)
    with stage.scheduler(memory) as scheduler:
        run = stage.submit(graph)
        [task] = eventually(lambda: tasks(memory))
        [claim] = stage.attempts.claim([task.id], "w", "t")
        first = worker.report(task.id, value("first"), claim.now_ms)
        stage.attempts.report([first, first])
        stage.attempts.report([worker.report(task.id, failure())])
        stage.attempts.report([worker.report(task.id, loss())])
        stage.attempts.report([worker.report(stage.attempt(run, 0, 7), value("future"))])
        stage.attempts.report([worker.report(stage.attempt(run, 999, 1), value("no such node"))])
        stage.attempts.report([worker.report(stage.attempt(stage.new_id(stage.runs.shard(run))), value("no such run"))])
        eventually(lambda: len(tasks(memory)) == 2)
        eventually(lambda: scheduler.counts["late"] == 6)
        worker.take(tasks(memory)[1:])
        assert stage.ended(run) == ["succeeded"]
    assert stage.runs.values(run, [0]) == {0: b'"first"'}
    assert stage.words(run, 0) == ["ready", "dispatch", "succeed", "late", "late", "late", "late"]
    idle(stage)


BROKEN: dict[str, list[str | bytes]] = {
    "no kind that we know": ["riddle", "?"],
    "no JSON": ["report", "{"],
    "no UTF-8": ["report", b"\xff\xfe"],
    "no object": ["report", "[]"],
    "no end": ["report", '{"id": "ID"}'],
    "an end that we do not know": ["report", '{"id": "ID", "end": "vanished"}'],
    "no id": ["report", '{"end": "succeeded"}'],
    "an id of another kind": ["report", '{"id": "8b0b3a4e", "end": "succeeded"}'],
    "a node below zero": ["report", '{"id": "SHARD.RUN.-1.1.1", "end": "succeeded"}'],
    "a number that int() would take": ["report", '{"id": "SHARD.RUN.0_0.1.1", "end": "succeeded"}'],
    "a digit of another script": ["report", '{"id": "SHARD.RUN.\u0660.1.1", "end": "succeeded"}'],
    "another shard's attempt": ["report", '{"id": "99.RUN.0.1.1", "end": "succeeded"}'],
    "an instant that is a text": ["report", '{"id": "ID", "end": "failed", "claimed_at_ms": "soon"}'],
    "an error that is a text": ["report", '{"id": "ID", "end": "failed", "error": "bad"}'],
    "an output that is missing": ["report", '{"id": "ID", "end": "succeeded", "output": "inline"}'],
    "an output that nobody announced": ["report", '{"id": "ID", "end": "succeeded"}', "output", "1"],
    "an output that is no JSON": ["report", '{"id": "ID", "end": "succeeded", "output": "inline"}', "output", "{"],
    "an output that is no UTF-8": ["report", '{"id": "ID", "end": "succeeded", "output": "inline"}', "output", b"\xff"],
    "a blob without a name": ["report", '{"id": "ID", "end": "succeeded", "output": "blob"}', "output", "{}"],
    "a cancel that is no JSON": ["cancel", b"\xff"],
    "a cancel of no object": ["cancel", "[]"],
    "a cancel of no run": ["cancel", "{}"],
    "a retry that is no JSON": ["retry", "["],
}
HARMLESS: dict[str, list[str | bytes]] = {
    "an output without a report": ["output", "1"],
    "a run that is not there": ["submit", "0" * 26],
    "a run of no form": ["submit", b"\xff} \x00"],
    "a cancel of a run that is not there": ["cancel", '{"run": "nowhere"}'],
    "a cancel of a list": ["cancel", '{"run": ["RUN"]}'],
    "a retry of a run that is not there": ["retry", '{"run": "{ns:0}:x"}'],
    "a retry of a run that has not ended": ["retry", '{"run": "RUN"}'],
}


@pytest.mark.parametrize("entry", [*BROKEN, *HARMLESS])
def test_what_cannot_be_read_is_refused_counted_and_consumed(stage: Stage, memory: MemoryTransport, entry: str) -> None:
    """No entry blocks an inbox, ends a scheduler or changes a run; the entries around it count."""
    worker = Echo(stage.attempts)
    graph = Graph("broken")
    a = graph.add("echo", key="a")
    graph.add("echo", key="b", a=a)
    with stage.scheduler(memory) as scheduler:
        run = stage.submit(graph)
        [task] = eventually(lambda: tasks(memory))
        worker.attempts.claim([task.id], "w", "t")
        shard = stage.runs.shard(run)

        def filled(part: str | bytes) -> str | bytes:
            if isinstance(part, bytes):
                return part
            return part.replace("ID", task.id).replace("SHARD", str(shard)).replace("RUN", run)

        before = stage.states(run)
        parts = map(filled, (BROKEN | HARMLESS)[entry])
        stage.client.execute_command("XADD", stage.keys.shard(shard).inbox, "*", *parts)
        eventually(lambda: stage.client.xlen(stage.keys.shard(shard).inbox) == 0)
        assert scheduler.counts["refused"] == (entry in BROKEN)
        assert stage.states(run) == before
        stage.attempts.report([worker.report(task.id, value(1))])
        eventually(lambda: len(tasks(memory)) == 2)
        worker.take(tasks(memory)[1:])
        assert stage.ended(run) == ["succeeded"]
        assert scheduler.counts["crashes"] == 0
    idle(stage)


def test_what_stands_around_a_broken_record_in_one_entry_counts(stage: Stage, memory: MemoryTransport) -> None:
    """One worker's batch of reports is not lost for one of them."""
    worker = Echo(stage.attempts)
    with stage.scheduler(memory) as scheduler:
        run = stage.submit(layers(3))
        eventually(lambda: len(memory.sent) == 3)
        ids = [task.id for task in tasks(memory)]
        for id_ in ids:
            worker.attempts.claim([id_], "w", "t")
        good = [Report(id_, "succeeded", "w").to_json() for id_ in ids]
        parts = ["report", good[0], "report", "{", "riddle", "?", "report", good[1], "report", good[2]]
        stage.client.execute_command("XADD", stage.keys.shard(stage.runs.shard(run)).inbox, "*", *parts)
        assert stage.ended(run) == ["succeeded"]
        assert scheduler.counts["refused"] == 2
    idle(stage)


# -- executors and classes ----------------------------------------------------------------------------


def test_an_unknown_executor_waits_with_its_reason_until_a_worker_publishes_it(
    stage: Stage, worker: Echo, at_once: AtOnce
) -> None:
    """Its branch waits, others go on; the log says what is missing; no restart is needed."""
    graph = Graph("unknown")
    graph.add("echo", key="known")
    graph.add("later", key="unknown")
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        eventually(lambda: stage.states(run)["known"] == "succeeded")
        [why] = [why for node, word, _, _, why in stage.moves(run) if word == "wait"]
        assert why == "no worker has published the executor 'later'"
        assert worker.nodes() == ["known"]
        stage.publish("later")
        assert stage.ended(run) == ["succeeded"]
    assert worker.nodes() == ["known", "unknown"]
    idle(stage)


def test_what_is_known_is_not_said_to_wait(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """A scheduler that starts reads the contracts before it opens runs."""
    run = stage.submit(diamond())
    with stage.scheduler(at_once):
        assert stage.ended(run) == ["succeeded"]
    assert "wait" not in {move[1] for move in stage.moves(run)}


def test_a_worker_that_comes_a_moment_before_its_first_run_is_seen(stage: Stage, at_once: AtOnce) -> None:
    """Contracts are looked for when they are missed, not at the next round."""
    with stage.scheduler(at_once, shard_lease_seconds=60.0) as scheduler:
        eventually(lambda: len(owned(stage.client)) == stage.shards)
        stage.publish("fresh")
        graph = Graph("fresh")
        graph.add("fresh", key="a")
        run = stage.submit(graph)
        assert stage.ended(run, seconds=5) == ["succeeded"]
        assert not scheduler.counts["crashes"]
    idle(stage)


def test_a_node_s_class_overrides_its_executor_s(stage: Stage) -> None:
    """Node, else contract, else default decide the queue; a class that nobody declared waits with that reason."""
    stage.publish("echo", queue_class="interactive-low")
    stage.publish("plain")
    memory = MemoryTransport()
    graph = Graph("classes")
    graph.add("echo", key="contract")
    graph.add("echo", key="node", queue_class="batch-high")
    graph.add("plain", key="default")
    graph.add("plain", key="nowhere", queue_class="no-such")
    with stage.scheduler(memory):
        run = stage.submit(graph)
        eventually(lambda: len(memory.sent) == 3)
        queues = {headers["celeriac"]["node"]: queue for queue, _, headers in memory.sent}
        assert queues == {"contract": INTERACTIVE, "node": "celeriac.batch-high", "default": STANDARD}
        eventually(lambda: [why for _, word, _, _, why in stage.moves(run) if word == "wait"])
        assert [move[4] for move in stage.moves(run) if move[1] == "wait"] == [
            "no queue class 'no-such' is declared here"
        ]
        stage.runs.cancel(run, "over")
        assert stage.ended(run) == ["cancelled"]
    idle(stage)


def watched(stage: Stage, windows: dict[str, int]) -> Callable[[], None]:
    """Looks at the attempts in flight again and again; the answer ends that and fails if a window was exceeded."""
    seen: Counter[str] = Counter()
    stop = threading.Event()

    def watch() -> None:
        mine = Stage(stage.url, stage.namespace, stage.shards)
        while not stop.is_set():
            for name, count in mine.flying_by_class().items():
                seen[name] = max(seen[name], count)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join(10)
        assert all(0 < seen[name] <= window for name, window in windows.items()), seen

    return end


def test_no_more_than_its_window_of_a_class_is_in_flight(stage: Stage) -> None:
    """By the table of attempts in flight, at any instant, while workers work; and in the broker's queue."""
    stage.publish("echo")
    end = watched(stage, {"standard-low": 7})
    with EchoWorker(stage.url, [STANDARD]) as worker, stage.scheduler(standard_low={"window": 7}):
        runs = [stage.submit(layers(40), shard=1) for _ in range(4)]
        assert stage.ended(*runs) == ["succeeded"] * 4
    end()
    assert len(worker.done) == 160
    idle(stage)


def test_two_schedulers_share_a_window(stage: Stage) -> None:
    """Together they keep to it: each has the part that goes with its shards."""
    stage.publish("echo")
    narrow = {"window": 8}
    with stage.scheduler(standard_low=narrow), stage.scheduler(standard_low=narrow):
        eventually(lambda: sorted(Counter(owned(stage.client).values()).values()) == [2, 2], "two shards each")
        end = watched(stage, {"standard-low": 8})
        with EchoWorker(stage.url, [STANDARD]):
            by_owner = {owner: shard for shard, owner in owned(stage.client).items()}
            runs = [stage.submit(layers(30), shard=shard) for shard in by_owner.values()]
            assert stage.ended(*runs) == ["succeeded"] * 2
        end()
    idle(stage)


def test_a_saturated_class_leaves_the_other_s_waits_unchanged(stage: Stage) -> None:
    """With one class full of work that nobody does, nodes of another go out as if it were empty."""
    stage.publish("slow", queue_class="batch-high")
    stage.publish("quick", queue_class="interactive-low")
    worker = Echo(stage.attempts)

    class Half(AtOnce):
        """Nobody works for the slow class."""

        def send(self, outgoing: Outgoing) -> None:
            super().send([it for it in outgoing if it[0].queue == INTERACTIVE])

    def waits() -> list[int]:
        """How long each node of a quick run stood ready, ms."""
        run = stage.submit(layers(10, 3, "quick"))
        eventually(lambda: stage.runs.summary(run).state == "succeeded")
        tries = [next(stage.load(run).tries(node)) for node in range(30)]
        return [it.dispatched_at_ms - it.ready_at_ms for it in tries]

    with stage.scheduler(Half(worker)):
        alone = waits()
        full = stage.submit(layers(3_000, 1, "slow"))
        eventually(lambda: stage.flying_by_class()["batch-high"] == 16)
        beside = waits()
        assert stage.flying_by_class() == {"batch-high": 16}
        stage.runs.cancel(full, "over")
        assert stage.ended(full) == ["cancelled"]
    assert sorted(beside)[15] <= sorted(alone)[15] + 20
    idle(stage)


def test_runs_take_turns_in_a_full_class(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """A narrow run submitted after a wide one does not wait for all of it."""
    worker.act = lambda task: Ending(kind="none")
    gate = threading.Event()

    class Gated(AtOnce):
        def send(self, outgoing: Outgoing) -> None:
            gate.wait(20)
            super().send(outgoing)

    with stage.scheduler(Gated(worker), standard_low={"window": 20}):
        wide = stage.submit(layers(500), shard=0)
        narrow = stage.submit(layers(1), shard=0)
        gate.set()
        assert stage.ended(wide, narrow) == ["succeeded"] * 2
    place = [task.id.split(".")[1] for task in worker.done].index(narrow)
    assert place < 100
    idle(stage)


# -- cancel and deadline ------------------------------------------------------------------------------


def test_a_run_cancelled_before_it_began_never_begins(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """Submit and cancel that are read together leave nothing sent."""
    run = stage.submit(diamond())
    stage.runs.cancel(run, "changed my mind")
    with stage.scheduler(at_once):
        assert stage.ended(run) == ["cancelled"]
    assert stage.runs.summary(run).reason == "cancelled: changed my mind"
    idle(stage)


def test_a_claimed_attempt_gets_a_grace_and_what_only_waits_none(stage: Stage, memory: MemoryTransport) -> None:
    """What runs may still end by itself, and its output counts; what was only sent is refused from then on."""
    worker = Echo(stage.attempts)
    graph = Graph("cancel")
    a = graph.add("echo", key="running")
    graph.add("echo", key="sent")
    graph.add("echo", key="pending", after=a)
    with stage.scheduler(memory):
        run = stage.submit(graph)
        eventually(lambda: len(memory.sent) == 2)
        by_node = {task.node: task.id for task in tasks(memory)}
        [claim] = stage.attempts.claim([by_node["running"]], worker.name, "t")
        stage.runs.cancel(run, "stop")
        stage.runs.cancel(run, "stop again")
        eventually(lambda: stage.runs.summary(run).state == "cancelling")
        assert stage.states(run) == {"running": "dispatched", "sent": "cancelled", "pending": "cancelled"}
        assert stage.attempts.claim([by_node["sent"]], "w", "u")[0].verdict == "stale"
        assert stage.attempts.renew([by_node["running"]], worker.name) == {by_node["running"]: False}
        stage.attempts.report([worker.report(by_node["running"], value("just in time"), claim.now_ms)])
        assert stage.ended(run) == ["cancelled"]
    assert stage.states(run)["running"] == "succeeded"
    assert stage.runs.values(run, [0]) == {0: b'"just in time"'}
    assert stage.runs.summary(run).reason == "cancelled: stop"
    idle(stage)


@pytest.mark.parametrize("restart", [False, True], ids=["same scheduler", "another scheduler"])
def test_what_does_not_end_within_the_grace_is_cancelled(
    stage: Stage, memory: MemoryTransport, monkeypatch: pytest.MonkeyPatch, restart: bool
) -> None:
    """Nobody waits for a worker that does not listen; also when all that was open runs, and the scheduler changes."""
    monkeypatch.setattr(decide, "GRACE_MS", 20_000 if restart else 50)
    graph = Graph("grace")
    graph.add("echo", key="running")
    with stage.scheduler(memory):
        run = stage.submit(graph)
        [task] = eventually(lambda: tasks(memory))
        stage.attempts.claim([task.id], "w", "t")
        stage.runs.cancel(run, "stop")
        if restart:
            eventually(lambda: stage.runs.summary(run).state == "cancelling")
        else:
            assert stage.ended(run) == ["cancelled"]
    if restart:
        monkeypatch.setattr(decide, "GRACE_MS", 50)
        with stage.scheduler(memory):
            assert stage.ended(run) == ["cancelled"]
    assert stage.states(run) == {"running": "cancelled"}
    idle(stage)


def test_a_cancellation_of_what_is_over_or_unknown_changes_nothing(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """It is consumed, and that is all; whatever its reason holds."""
    with stage.scheduler(at_once):
        run = stage.submit(diamond())
        stage.ended(run)
        before = dump(stage.client)
        stage.runs.cancel(run, "too late \ud800")
        stage.runs.cancel(stage.new_id(), "no such run")
        eventually(stage.quiet)
        after = dump(stage.client)
    changed = {key for key in before | after if before.get(key) != after.get(key)}
    assert all(key.endswith((b":inbox", b":owners", b":schedulers")) for key in changed)


def test_a_reason_that_is_no_text_does_not_stop_the_loop(stage: Stage, memory: MemoryTransport) -> None:
    """A lone surrogate in a reason, as other clients may send it, is stored as a question mark."""
    with stage.scheduler(memory):
        run = stage.submit(diamond())
        eventually(lambda: memory.sent)
        body = json.dumps({"run": run, "reason": "\ud800!"})
        stage.client.xadd(stage.keys.shard(stage.runs.shard(run)).inbox, {"cancel": body})
        assert stage.ended(run) == ["cancelled"]
    assert stage.runs.summary(run).reason == "cancelled: ?!"


def test_a_run_past_its_deadline_fails_and_stops(stage: Stage, memory: MemoryTransport) -> None:
    """Whatever runs is cut off, nothing new begins, and the reason says why."""
    graph = Graph("deadline")
    a = graph.add("echo", key="a")
    graph.add("echo", key="b", after=a)
    with stage.scheduler(memory):
        run = stage.submit(graph, deadline_ms=150)
        [task] = eventually(lambda: tasks(memory))
        assert task.headers["celeriac"]["deadline_at_ms"] == stage.runs.summary(run).created_at_ms + 150
        assert stage.ended(run) == ["failed"]
        assert stage.attempts.claim([task.id], "w", "t")[0].verdict == "stale"
    summary = stage.runs.summary(run)
    assert summary.reason == "the run's deadline passed"
    assert summary.ended_at_ms is not None
    assert summary.ended_at_ms - summary.created_at_ms >= 150
    assert set(stage.states(run).values()) == {"cancelled"}
    assert len(memory.sent) == 1
    idle(stage)


def test_a_run_that_ends_in_time_leaves_no_deadline(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """Its timer goes with it."""
    with stage.scheduler(at_once):
        assert stage.ended(stage.submit(diamond(), deadline_ms=60_000)) == ["succeeded"]
    idle(stage)


# -- Redis comes and goes -----------------------------------------------------------------------------


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A server that a test may stop."""
    with EmbeddedRedis(tmp_path) as server:
        yield server


def test_a_redis_that_restarts_during_a_run_costs_only_time(own_redis: EmbeddedRedis) -> None:
    """The loop connects again, loads what stands there and completes the run; no finished node is sent again."""
    stage = Stage(own_redis.url)
    stage.publish("echo")
    half = threading.Event()

    def act(task: Task) -> Ending | None:
        if task.node == "echo-20":
            half.set()
        return echo(task)

    graph = layers(4, 10)
    with stage.scheduler(AtOnce(Echo(stage.attempts, act))) as scheduler:
        eventually(lambda: len(owned(stage.client)) == stage.shards)
        run = stage.submit(graph)
        assert half.wait(20)
        done_before = {key for key, state in stage.states(run).items() if state == "succeeded"}
        own_redis.stop()
        own_redis.start()
        assert stage.ended(run) == ["succeeded"]
        assert not scheduler.counts["crashes"]
    ends = Counter(move[0] for move in stage.moves(run) if move[1] == "succeed")
    assert set(ends.values()) == {1}
    assert done_before
    check(stage.client, idle=True)


def test_a_redis_that_forgets_its_scripts_costs_nothing(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """As after a failover; each is sent again in full."""
    worker.act = lambda task: stage.client.script_flush() and echo(task)
    with stage.scheduler(at_once):
        assert stage.ended(stage.submit(diamond())) == ["succeeded"]
    idle(stage)


def test_a_full_redis_is_waited_for(own_redis: EmbeddedRedis) -> None:
    """What is refused for want of memory goes through once there is room; nothing is done twice."""
    stage = Stage(own_redis.url)
    stage.publish("echo")
    worker = Echo(stage.attempts)
    run = stage.submit(diamond())
    stage.client.config_set("maxmemory", "1")
    with stage.scheduler(AtOnce(worker), stumbles=True) as scheduler:
        eventually(lambda: scheduler.counts["crashes"] > 1)
        stage.client.config_set("maxmemory", "0")
        assert stage.ended(run) == ["succeeded"]
    assert sorted(worker.nodes()) == ["a", "b", "c", "d"]
    check(stage.client, idle=True)


def test_a_scheduler_without_shards_does_not_spin(stage: Stage) -> None:
    """One that stands by sends a handful of commands a second, and so does one with nothing to do."""
    with stage.scheduler(MemoryTransport(), shard_lease_seconds=10.0):
        eventually(lambda: len(owned(stage.client)) == stage.shards)
        with stage.scheduler(MemoryTransport(), shard_lease_seconds=10.0):
            eventually(lambda: stage.client.zcard(stage.keys.schedulers) == 2)
            before = stage.client.info("stats")["total_commands_processed"]
            until = time.monotonic() + 1
            eventually(lambda: time.monotonic() > until)
            assert stage.client.info("stats")["total_commands_processed"] - before < 12


def test_a_blocked_read_ends_before_the_connection_does(
    stage: Stage, worker: Echo, at_once: AtOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the leases, a read asks for less than the silence after which a connection is given up."""
    asked: list[int] = []
    read = Inboxes.read

    def noted(self: Any, after: Any, block_ms: int) -> Any:
        asked.append(block_ms)
        return read(self, after, min(block_ms, 50))

    monkeypatch.setattr(Inboxes, "read", noted)
    with stage.scheduler(at_once, shard_lease_seconds=600.0):
        eventually(lambda: len(asked) > 3)
    assert max(asked) <= 5_000


def test_the_scheduler_says_who_it_is(stage: Stage) -> None:
    """Its name is in the table of owners while it works, and no row names it afterwards."""
    with stage.scheduler(MemoryTransport()) as scheduler:
        assert isinstance(scheduler, Scheduler)
        eventually(lambda: set(owned(stage.client).values()) == {scheduler.name})
    assert owned(stage.client) == {}
    assert stage.client.zrange(stage.keys.schedulers, 0, -1) == []
