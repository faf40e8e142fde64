"""Reports that come twice or late, and entries that cannot be read: they change nothing and stop nothing."""

from __future__ import annotations

import os
import pickle
from typing import Any

import pytest

from scheduler.graph import Graph
from scheduler.service.transport import MemoryTransport
from scheduler.wire import Report
from tests.integration.echo import Echo, failure, loss, tasks, value
from tests.integration.stage import Stage, eventually, idle, layers


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


class Canary:
    """Says that it was unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import os; os.environ['CANARY'] = 'sang'",)


CANARY = pickle.dumps(Canary())
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
    "an output in UTF-16": [
        "report",
        '{"id": "ID", "end": "succeeded", "output": "inline"}',
        "output",
        '{"a": 1}'.encode("utf-16"),
    ],
    "an output with half a character": [
        "report",
        '{"id": "ID", "end": "succeeded", "output": "inline"}',
        "output",
        b'"\xed\xa0\x80"',
    ],
    "a blob without a name": ["report", '{"id": "ID", "end": "succeeded", "output": "blob"}', "output", "{}"],
    "a pickle": ["report", CANARY],
    "a pickle as an output": ["report", '{"id": "ID", "end": "succeeded", "output": "inline"}', "output", CANARY],
    "yaml": ["report", "!!python/object/apply:pathlib.Path.touch [canary]"],
    "a pickled cancel": ["cancel", CANARY],
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


def test_the_canary_sings_when_it_is_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of the test below."""
    monkeypatch.setenv("CANARY", "silent")
    pickle.loads(CANARY)
    assert os.environ["CANARY"] == "sang"


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
    assert "CANARY" not in os.environ  # the scheduler's thread is in this process
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
