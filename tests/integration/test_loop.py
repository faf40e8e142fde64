"""The loop: a real scheduler in a thread, a real Redis, and workers that claim and report without Celery."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from scheduler.graph import Graph, Retry
from scheduler.service import loading as opening
from scheduler.service import loop
from scheduler.store import loading
from scheduler.store import runs as runs_module
from scheduler.store.inboxes import Entry, Inboxes
from scheduler.wire import Report, RunId
from tests.integration.echo import STANDARD, AtOnce, Echo, EchoWorker, Ending, echo, failure, value
from tests.integration.gate import Gate
from tests.integration.stage import Stage, diamond, idle, layers

QUICK = Retry(max_attempts=3, base_seconds=0.02, cap_seconds=0.04)


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


def test_runs_submitted_to_several_shards_are_read_together(
    stage: Stage, at_once: AtOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One round trip for what every run has, whatever their shards; a run that is submitted alone costs no more."""
    read: list[int] = []
    first = loading.read_first

    def counted(client: Any, keys_of: Any, runs: Sequence[RunId]) -> dict[RunId, loading.First]:
        read.append(len(runs))
        return first(client, keys_of, runs)

    gate = Gate(monkeypatch)
    with stage.scheduler(at_once):
        for module in (loading, runs_module):
            monkeypatch.setattr(module, "read_first", counted)
        gate.shut()
        runs = [stage.submit(diamond(), shard=shard) for shard in (0, 1, 2, 3, 0, 1)]
        gate.open.set()
        assert stage.ended(*runs) == ["succeeded"] * 6
        assert [it for it in read if it] == [6]
        read.clear()
        assert stage.ended(stage.submit(diamond())) == ["succeeded"]
        assert [it for it in read if it] == [1]
    idle(stage)


def test_what_a_turn_leaves_behind_waits_for_nothing(
    stage: Stage, at_once: AtOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle Redis looks at the time ten times a second, so a read that blocks for 1 ms may take a hundred."""
    monkeypatch.setattr(loop, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(opening, "OPENED_AT_ONCE", 3)
    blocked: list[int] = []
    read = Inboxes.read
    with stage.scheduler(at_once) as scheduler:

        def noted(inboxes: Inboxes, after: Mapping[str, bytes], block_ms: int) -> tuple[dict[str, list[Entry]], int]:
            if any(it.unfinished for it in scheduler._owned.held.values()):
                blocked.append(block_ms)
            return read(inboxes, after, block_ms)

        monkeypatch.setattr(Inboxes, "read", noted)
        assert stage.ended(stage.submit(layers(20))) == ["succeeded"]
    assert blocked
    assert set(blocked) == {0}
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


class Escaping(Echo):
    """A worker that writes its outputs in ASCII, as Celery's do."""

    def report(self, id_: str, ending: Ending, claimed_at_ms: int | None = None) -> tuple[Report, bytes | None]:
        """The report of an ending, with its output."""
        report, _ = super().report(id_, Ending(value=1), claimed_at_ms)
        return report, json.dumps(ending.value).encode()


def test_half_a_surrogate_pair_that_a_path_picks_holds_up_nobody(stage: Stage) -> None:
    """JSON may carry it as an escape and UTF-8 may not: the message has the escape again, and all messages go out."""
    stage.publish("echo")
    queue = EchoWorker(stage.url, [STANDARD])
    queue.echo = worker = Escaping(stage.attempts)
    worker.act = lambda task: value({"odd": "a\udfff"}) if task.node == "maker" else echo(task)
    graph = Graph("halves")
    graph.add("echo", key="reader", odd=graph.add("echo", key="maker").out.odd)
    with queue, stage.scheduler():
        assert stage.ended(stage.submit(graph)) == ["succeeded"]
    assert worker.done[-1].kwargs == {"odd": "a\udfff"}
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
