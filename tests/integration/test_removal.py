"""What a removal meets: keys that are remembered, retries, other owners, deaths. Nothing is lost by it."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from scheduler import Client, KeyReused
from scheduler.archive.archive import name_of
from scheduler.archive.places import Folder
from scheduler.graph import Graph
from scheduler.service.loop import Scheduler
from scheduler.service.transport import MemoryTransport
from scheduler.store.ended import EndedRuns, Removal, forget
from scheduler.wire import run_id_for_key
from tests.integration.archived import archive_of, at_once_to, removed, states
from tests.integration.echo import AtOnce, Echo, echo, failure
from tests.integration.invariants import check
from tests.integration.stage import Stage, diamond, eventually, idle, layers, owned

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("quick")


# --- keys ---------------------------------------------------------------------------------------------------


def test_a_key_is_remembered_after_its_run_was_removed(
    stage: Stage, worker: Echo, at_once: AtOnce, folder: Path
) -> None:
    """The same key and graph answer with the archived run, another graph is refused, nothing runs again."""
    with (
        stage.scheduler(at_once, retention=at_once_to(folder)),
        Client(stage.url, archive_url=str(folder)) as client,
    ):
        first = client.submit(diamond(), key="day-1")
        removed(stage, first.id)
        done = len(worker.done)
        again = client.submit(diamond(), key="day-1")
        assert again.id == first.id
        assert again.result(1) == {"left": {"value": 1}, "right": 1}
        with pytest.raises(KeyReused):
            client.submit(diamond("other"), key="day-1")
        assert client.run_of("day-1").state == "succeeded"
    assert len(worker.done) == done
    keys = stage.keys.shard(stage.runs.shard(first.id))
    assert 29 * 86_400 < stage.client.ttl(keys.archived(first.id)) <= 30 * 86_400
    idle(stage)


def test_a_key_that_is_forgotten_runs_again_and_both_runs_are_archived(
    stage: Stage, worker: Echo, at_once: AtOnce, folder: Path
) -> None:
    """With key_retention_seconds = 0 a key lasts as long as its run; the older run's file is kept beside the newer."""
    with (
        stage.scheduler(at_once, retention=at_once_to(folder, key_retention_seconds=0)),
        Client(stage.url, archive_url=str(folder)) as client,
    ):
        first = client.submit(diamond(), key="day-1")
        removed(stage, first.id)
        created = first.summary().created_at_ms
        second = client.submit(diamond(), key="day-1")
        assert second.id == first.id == run_id_for_key("cel", "day-1")
        removed(stage, second.id)
        assert second.summary().created_at_ms > created
    assert len(worker.done) == 8
    files = sorted(it.name for it in (folder / name_of(first.id)).parent.iterdir())
    assert files == sorted([f"{first.id}.{created}.jsonl.gz", f"{first.id}.jsonl.gz"])
    idle(stage)


def test_a_key_whose_run_is_still_being_swept_finds_it(redis_url: str, folder: Path) -> None:
    """Between a large run's removal and the end of its sweep its id is not free, also where keys are not remembered."""
    stage = Stage(redis_url, shards=1)
    stage.publish("echo")
    with Client(stage.url, archive_url=str(folder)) as client:
        with stage.scheduler(AtOnce(Echo(stage.attempts)), standard_low={"window": 2_000}):
            run = client.submit(layers(700), key="big").id
            stage.ended(run)
        found = EndedRuns(stage.runs)
        it = found.look(run)
        assert it is not None
        epoch = stage.client.get(stage.keys.shard(0).epoch)
        archive_of(folder).put("cel", it, found.pieces(it))
        assert forget(stage.client, stage.keys, [Removal(it, epoch)], 0) == ["forgotten"]
        assert stage.runs.summaries([run]) == [None]
        assert client.submit(layers(700), key="big").state == "succeeded"
        check(stage.client)
        with stage.scheduler(AtOnce(Echo(stage.attempts))):  # no archive is named: what was begun is ended all the same
            eventually(lambda: not stage.client.keys(f"*{run}*"), "the sweep")
    idle(stage)


# --- races --------------------------------------------------------------------------------------------------


def test_a_retry_and_a_removal_at_once_leave_a_whole_run(stage: Stage, folder: Path) -> None:
    """However they meet, a run is either retried, and archived with its new end, or archived as it failed."""
    stage.publish("echo")
    mended = threading.Event()
    worker = Echo(
        stage.attempts, lambda task: echo(task) if mended.is_set() or task.node == "a" else failure("permanent")
    )
    graph = Graph("pair")
    graph.add("echo", key="b", after=graph.add("echo", key="a"))
    chance = random.Random(3)
    with stage.scheduler(AtOnce(worker)):
        runs = [stage.submit(graph) for _ in range(60)]
        assert set(stage.ended(*runs)) == {"failed"}
    mended.set()
    with stage.scheduler(AtOnce(worker), retention=at_once_to(folder)):
        for run in chance.sample(runs, len(runs)):
            stage.runs.retry(run, "again")
            time.sleep(chance.random() * 0.02)
        removed(stage, *runs)
    outcomes = [states(folder, run)["b"] for run in runs]
    assert set(outcomes) <= {"succeeded", "failed"}
    assert worker.nodes().count("b") == 60 + outcomes.count("succeeded")
    for run in runs:
        shelf = archive_of(folder).find(run)
        assert shelf is not None
        assert shelf.summary(run).state == ("succeeded" if states(folder, run)["b"] == "succeeded" else "failed")
    idle(stage)


def test_a_run_that_was_retried_after_it_was_read_is_not_removed(stage: Stage, folder: Path) -> None:
    """The script compares instant, state and log with what was archived, and touches nothing when they differ."""
    stage.publish("echo")
    worker = Echo(stage.attempts, lambda task: failure("permanent"))
    with stage.scheduler(AtOnce(worker)):
        run = stage.submit(layers(1), shard=0)
        stage.ended(run)
        found = EndedRuns(stage.runs)
        seen = found.look(run)
        assert seen is not None
        stage.runs.retry(run, "again")
        eventually(lambda: stage.words(run, 0).count("fail") == 2, "the second end")
        stage.ended(run)
        epoch = stage.client.get(stage.keys.shard(0).epoch)
        assert forget(stage.client, stage.keys, [Removal(seen, epoch)], 60) == ["changed"]
        now = found.look(run)
        assert now is not None
        assert forget(stage.client, stage.keys, [Removal(now, b"999")], 60) == ["fenced"]
        assert stage.runs.summary(run).state == "failed"
        assert forget(stage.client, stage.keys, [Removal(now, epoch)], 60) == ["forgotten"]
    assert stage.runs.summaries([run]) == [None]
    idle(stage)


def test_a_run_that_is_live_in_memory_is_not_removed(stage: Stage, folder: Path) -> None:
    """What a retry has loaded stays, though nothing of that stands in Redis yet."""
    stage.publish("echo")
    worker = Echo(stage.attempts, lambda task: failure("permanent"))
    with stage.scheduler(AtOnce(worker)):
        run = stage.submit(layers(1), shard=0)
        stage.ended(run)
    scheduler = Scheduler(stage.settings(retention=at_once_to(folder)), MemoryTransport())
    it = EndedRuns(stage.runs).look(run)
    assert it is not None
    epoch = stage.client.get(stage.keys.shard(0).epoch).decode()
    from scheduler.service.held import Held

    held = Held(stage.keys.shard(0), epoch)
    held.runs[run] = stage.load(run)
    scheduler._retention._archivist.ready.append(Removal(it, epoch))
    assert scheduler._retention.remove(stage.client, {0: held}) == set()
    assert stage.runs.summary(run).state == "failed"
    held.runs.clear()
    scheduler._retention._archivist.ready.append(Removal(it, epoch))
    assert scheduler._retention.remove(stage.client, {0: held}) == set()
    assert stage.runs.summaries([run]) == [None]
    scheduler._dispatch.close()


def test_another_owner_goes_on_where_one_was_lost(
    stage: Stage, worker: Echo, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler that loses its shards while it archives removes nothing more; the next one does it all, once."""
    begun, go = threading.Event(), threading.Event()
    write = Folder.write

    def slow(self: Folder, name: str, fill: Any) -> None:
        if not go.is_set():
            begun.set()
            assert go.wait(60)
        write(self, name, fill)

    with stage.scheduler(AtOnce(worker)):
        runs = [stage.submit(diamond()) for _ in range(20)]
        stage.ended(*runs)
    monkeypatch.setattr(Folder, "write", slow)
    with stage.scheduler(AtOnce(worker), retention=at_once_to(folder)) as first:
        assert begun.wait(20)
        mine = first._owned  # renews no more
        monkeypatch.setattr(mine, "look", lambda: setattr(mine, "look_at", time.monotonic() + 1))
        stage.owners_vanish()
        with stage.scheduler(AtOnce(worker), retention=at_once_to(folder)) as second:
            eventually(lambda: set(owned(stage.client).values()) == {second.name}, "the takeover")
            go.set()
            removed(stage, *runs)
            eventually(lambda: not second._retention._archivist.working, "rest")
        assert first.counts["removed"] == 0
        assert second.counts["removed"] == 20
    assert [states(folder, run) for run in runs] == [dict.fromkeys("abcd", "succeeded")] * 20
    idle(stage)


def test_a_former_owner_puts_nothing_hollow_over_a_good_archive(stage: Stage, at_once: AtOnce, folder: Path) -> None:
    """Paused before it reads, while the next owner archives and removes the run, it leaves the file as it is."""
    with stage.scheduler(at_once):
        run = stage.submit(diamond())
        stage.ended(run)
    found = EndedRuns(stage.runs)
    seen = found.look(run)
    assert seen is not None
    with stage.scheduler(at_once, retention=at_once_to(folder)):
        removed(stage, run)
    file = folder / name_of(run)
    before = file.read_bytes()
    stored = archive_of(folder).put("cel", seen, found.pieces(seen), unchanged=lambda: found.look(run) is not None)
    assert not stored
    seen.at_ms -= 1  # nor does what was read before a retry
    assert not archive_of(folder).put("cel", seen, found.pieces(seen))
    assert file.read_bytes() == before
    assert list((folder / ".parts").iterdir()) == []
    idle(stage)
