"""Retention with a real loop: ended runs are archived, checked, removed; whatever goes wrong, nothing is lost by it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scheduler import Client, KeyReused
from scheduler.archive import Archive, open_archive
from scheduler.archive.archive import name_of
from scheduler.archive.places import Folder
from scheduler.cli.doctor import examine
from scheduler.embedded import EmbeddedRedis
from scheduler.graph import Graph, Retry
from scheduler.service import archivist, retention
from scheduler.service.loop import Scheduler
from scheduler.service.transport import MemoryTransport
from scheduler.store.ended import EndedRuns, Removal, forget
from scheduler.wire import RunId, run_id_for_key
from tests.integration.echo import AtOnce, Echo, Ending, Task, echo, failure
from tests.integration.invariants import check
from tests.integration.stage import Stage, diamond, eventually, idle, layers, owned

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The archivist looks more often than in production; nothing else is changed."""
    monkeypatch.setattr(archivist, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(archivist, "AGAIN_SECONDS", (0.05, 0.2))
    monkeypatch.setattr(archivist, "ASIDE_SECONDS", 0.1)
    monkeypatch.setattr(retention, "WORKING_MS", 10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the archive of a test lies; nothing is there yet."""
    return tmp_path / "archive"


def at_once_to(folder: Path, **more: Any) -> dict[str, Any]:
    """Settings that archive a run as soon as it has ended."""
    return {"retention_seconds": 0, "archive_url": str(folder), **more}


def removed(stage: Stage, *runs: RunId, seconds: float = 20.0) -> None:
    """Wait until Redis has nothing of these runs any more."""
    eventually(lambda: stage.runs.summaries(runs) == [None] * len(runs), "the removal", seconds)
    gone = [stage.keys.shard(shard).gone for shard in range(stage.shards)]
    eventually(lambda: not any(map(stage.client.hlen, gone)), "the end of the sweep", seconds)
    assert not any(stage.client.keys(f"*{run}:*") for run in runs)


def archive_of(folder: Path) -> Archive:
    """The archive in a folder."""
    found = open_archive(str(folder))
    assert found is not None
    return found


def states(folder: Path, run: RunId) -> dict[str, str]:
    """Node key -> state, as archived."""
    shelf = archive_of(folder).find(run)
    assert shelf is not None
    return {view.key: view.state.word for view in _views(shelf, run)}


def _views(shelf: Any, run: RunId) -> list[Any]:
    from scheduler.client.views import Workers, view_nodes

    return list(view_nodes(shelf.load(run), {}, Workers.read(shelf, None)))


def everything() -> Graph:
    """Every way a node can end, and large outputs."""
    graph = Graph("everything", retry=Retry(max_attempts=3, base_seconds=0.001, cap_seconds=0.002))
    a = graph.add("echo", key="a", value="ä%s{}'\"\n\u2028")
    big = graph.add("echo", key="big", value=a)
    flaky = graph.add("echo", key="flaky", after=a)
    broken = graph.add("echo", key="broken", after=a, labels={"team": "x"})
    graph.add("echo", key="after broken", after=broken)
    graph.add("echo", key="rescue", error=broken.error, trigger_rule="one_failed")
    graph.add("echo", key="left out", after=a, trigger_rule="all_failed")
    graph.returns(graph.add("echo", key="join", x=big, after=[flaky]))
    return graph


def act(task: Task) -> Ending | None:
    """What each node of `everything` does."""
    if task.node == "flaky" and task.attempt == 1:
        return failure()
    if task.node == "broken":
        return failure("permanent", "for good: ünicode")
    if task.node == "big":
        return Ending(value={"text": "x" * 3_000_000}, kind="blob")
    return Ending(value={"joined": 1}) if task.node == "join" else echo(task)


def shown(client: Client, run: RunId) -> dict[str, Any]:
    """All that a client can see of an ended run."""
    handle = client.run(run)
    seen: dict[str, Any] = {
        "summary": handle.summary(),
        "state": handle.state,
        "ready": handle.ready(),
        "wait": handle.wait(1),
        "nodes": handle.nodes(),
        "result": handle.result(1),
        "results": handle.results(1),
        "events": list(handle.events()),
        "completed": {it.node: (it.state, str(it.value)[:3000]) for it in handle.as_completed(1)},
    }
    for key in ("a", "broken", "after broken", "left out", "big"):
        try:
            seen[f"get {key}"] = handle.get(key, 1)
        except Exception as error:  # noqa: BLE001  the error is what is compared
            seen[f"get {key}"] = (type(error), str(error))
    return seen


def test_what_a_client_sees_of_a_run_is_the_same_from_its_archive(stage: Stage, worker: Echo, folder: Path) -> None:
    """States, timelines, reasons, outputs large and small, errors, events: all as before, and Redis holds nothing."""
    worker.act = act
    with stage.scheduler(AtOnce(worker)):
        run = stage.submit(everything(), labels='{"team": "ä"}', correlation_id="o-1", deadline_ms=3_600_000)
        assert stage.ended(run) == ["failed"]
    with Client(stage.url, archive_url=str(folder)) as client:
        before = shown(client, run)
    assert len(before["events"]) > 20
    assert len(before["get big"]["text"]) == 3_000_000

    with stage.scheduler(AtOnce(worker), retention=at_once_to(folder)) as scheduler:
        removed(stage, run)
    assert (scheduler.counts["archived"], scheduler.counts["removed"]) == (1, 1)
    with Client(stage.url, archive_url=str(folder)) as client:
        assert shown(client, run) == before
    assert stage.client.keys("*blob*") == []
    idle(stage)


def test_a_client_that_waits_while_its_run_is_archived_gets_what_it_waits_for(
    stage: Stage, worker: Echo, at_once: AtOnce, folder: Path
) -> None:
    """Runs vanish as soon as they end, and handles answer all the same: wait, result, results, nodes."""
    with (
        stage.scheduler(at_once, retention=at_once_to(folder)),
        Client(stage.url, archive_url=str(folder)) as client,
    ):
        for _ in range(20):
            handle = client.submit(diamond())
            assert handle.wait(20) == "succeeded"
            assert handle.result(20) == {"left": {"value": 1}, "right": 1}
            assert len(handle.results(20)) == len(handle.nodes()) == 4
            assert len(list(handle.as_completed(20))) == 4
        eventually(lambda: not client.runs(), "the removal")
    idle(stage)


def test_only_what_has_come_of_age_goes(stage: Stage, at_once: AtOnce, folder: Path) -> None:
    """Of runs in one shard the old ones are removed, the young stay until their time."""
    with stage.scheduler(at_once):
        old, young = (stage.submit(diamond(), shard=1) for _ in range(2))
        stage.ended(old, young)
    keys = stage.keys.shard(1)
    an_hour_ago = stage.runs.now_ms() - 3_600_000
    stage.client.hset(keys.run(old), "ended_at_ms", an_hour_ago)
    stage.client.zadd(keys.ended, {old: an_hour_ago})
    with stage.scheduler(at_once, retention=at_once_to(folder, retention_seconds=1800)) as scheduler:
        removed(stage, old)
        assert stage.ended(stage.submit(diamond(), shard=1)) == ["succeeded"]
        eventually(lambda: not scheduler._retention._archivist.working, "the archivist's rest")
    assert stage.runs.summary(young).state == "succeeded"
    assert scheduler.counts["removed"] == 1
    assert archive_of(folder).find(young) is None
    idle(stage)


def test_without_an_archive_ended_runs_stay_and_doctor_says_so(stage: Stage, at_once: AtOnce) -> None:
    """Nobody said that they may be thrown away."""
    with stage.scheduler(at_once, retention={"retention_seconds": 0}) as scheduler:
        run = stage.submit(diamond())
        stage.ended(run)
        assert stage.ended(stage.submit(diamond())) == ["succeeded"]
        found = {it.subject: it for it in examine(stage.settings(retention={"retention_seconds": 0}))}
    assert "no archive is named" in found["ended runs"].found
    assert stage.runs.summary(run).state == "succeeded"
    assert scheduler.counts["removed"] == 0


def test_ended_runs_are_thrown_away_where_that_was_said(stage: Stage, worker: Echo) -> None:
    """archive_url = "none": removed with all that they own, written nowhere."""
    worker.act = act
    with stage.scheduler(AtOnce(worker), retention={"retention_seconds": 0, "archive_url": "none"}) as scheduler:
        run = stage.submit(everything())
        removed(stage, run)
    assert (scheduler.counts["archived"], scheduler.counts["removed"]) == (0, 1)
    assert stage.client.keys("*blob*") == []
    idle(stage)


def test_no_request_throws_a_run_away(stage: Stage, at_once: AtOnce) -> None:
    """Where ended runs may be thrown away, asking for the archive does not do so before their time."""
    with stage.scheduler(at_once, retention={"archive_url": "none"}) as scheduler:
        run = stage.submit(diamond(), shard=0)
        stage.ended(run)
        stage.runs.archive(run)
        asked = scheduler._retention._archivist.wanted
        stage.ended(stage.submit(diamond(), shard=0))  # behind the request in the same inbox
        eventually(lambda: not asked, "the request's end")
        eventually(lambda: not scheduler._retention._archivist.working, "rest")
    assert stage.runs.summary(run).state == "succeeded"
    assert scheduler.counts["removed"] == 0


def test_nothing_is_asked_while_nothing_is_due(stage: Stage, at_once: AtOnce, folder: Path) -> None:
    """An idle scheduler with ended runs that have time left costs what one without them costs."""
    with stage.scheduler(
        at_once, shard_lease_seconds=10.0, retention=at_once_to(folder, retention_seconds=600, retention_bytes=10**9)
    ) as scheduler:
        stage.ended(*(stage.submit(diamond()) for _ in range(5)))
        eventually(lambda: len(scheduler._retention._archivist._look_at) == 4, "a first look")
        settled = [0, -1]

        def quiet() -> bool:
            settled[:] = (
                settled[1],
                scheduler._retention._archivist._open().client.info("stats")["total_reads_processed"],
            )
            time.sleep(0.2)
            return settled[1] - settled[0] <= 3

        eventually(quiet, "rest")
        before = stage.client.info("stats")["total_commands_processed"]
        time.sleep(2.0)
        assert stage.client.info("stats")["total_commands_processed"] - before <= 10


def test_a_slow_archive_delays_nothing(
    stage: Stage, at_once: AtOnce, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the archive takes for ever over one run, others run to their end, and the scheduler stops at once."""
    begun, go = threading.Event(), threading.Event()
    write = Folder.write

    def slow(self: Folder, name: str, fill: Any) -> None:
        begun.set()
        assert go.wait(60)
        write(self, name, fill)

    monkeypatch.setattr(Folder, "write", slow)
    with stage.scheduler(at_once, retention=at_once_to(folder)) as scheduler:
        first = stage.submit(diamond())
        assert begun.wait(20)
        runs = [stage.submit(diamond()) for _ in range(50)]
        assert stage.ended(*runs) == ["succeeded"] * 50
        assert stage.runs.summary(first).state == "succeeded"
        begun_to_stop = time.monotonic()
    assert time.monotonic() - begun_to_stop < 10
    assert not owned(stage.client)
    go.set()
    eventually(lambda: not scheduler._retention._archivist._thread.is_alive(), "the thread's end")
    assert scheduler.counts["removed"] == 0
    idle(stage)


def test_a_redis_that_restarts_while_runs_are_archived_costs_only_time(tmp_path: Path, folder: Path) -> None:
    """Loop and archivist connect again and go on; every run lies in the archive and none is left."""
    with EmbeddedRedis(tmp_path / "redis") as server:
        stage = Stage(server.url)
        stage.publish("echo")
        worker = Echo(stage.attempts)
        with stage.scheduler(AtOnce(worker)):
            runs = [stage.submit(diamond()) for _ in range(60)]
            stage.ended(*runs)
        with stage.scheduler(AtOnce(worker), retention=at_once_to(folder)) as scheduler:
            eventually(lambda: scheduler.counts["removed"], "a first removal")
            server.stop()
            server.start()
            removed(stage, *runs)
            assert not scheduler.counts["crashes"]
            assert not scheduler.counts["crashes of the archivist"]
        assert all(archive_of(folder).find(run) for run in runs)
        idle(stage)


# --- the archive fails --------------------------------------------------------------------------------------


def _blocked(folder: Path) -> Callable[[], None]:
    """A file where the folder should be: nothing can be written, whoever asks."""
    folder.write_text("in the way")
    return folder.unlink


def test_an_archive_that_refuses_keeps_every_run_and_is_told_once(
    stage: Stage, at_once: AtOnce, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is removed, the log says it once, it is counted, doctor tells it; when it works again all of them go."""
    mend = _blocked(folder)
    with stage.scheduler(at_once, retention=at_once_to(folder)) as scheduler:
        runs = [stage.submit(diamond()) for _ in range(5)]
        stage.ended(*runs)
        eventually(lambda: scheduler.counts["archive failures"] >= 3, "failures")
        assert all(stage.runs.summaries(runs))
        [finding] = [it for it in examine(stage.settings(retention=at_once_to(folder))) if it.subject == "archive"]
        assert (finding.state, "NotADirectory" in finding.found or "FileExists" in finding.found) == ("wrong", True)
        mend()
        removed(stage, *runs)
    said = [it.message for it in caplog.records if "ended runs stay in Redis" in it.message]
    assert len(said) == 1
    assert stage.runs.archive_problem() == ""
    assert scheduler.counts["removed"] == 5
    idle(stage)


@pytest.mark.parametrize("how", ["refuses", "cuts", "loses"])
def test_a_remote_archive_is_believed_only_when_it_gives_back_what_it_got(
    stage: Stage, at_once: AtOnce, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A store that refuses, keeps half of a file, or says yes and keeps nothing, costs no run."""
    from fsspec.implementations.memory import MemoryFileSystem

    put_file = MemoryFileSystem.put_file
    url = f"memory://{stage.new_id()}/prefix"

    def bad(self: Any, local: str, there: str, **more: Any) -> None:
        if how == "refuses":
            raise PermissionError("not yours")
        if how == "cuts":
            self.pipe_file(there, Path(local).read_bytes()[:100])

    monkeypatch.setattr(MemoryFileSystem, "put_file", bad)
    with stage.scheduler(at_once, retention={"retention_seconds": 0, "archive_url": url}) as scheduler:
        run = stage.submit(diamond())
        stage.ended(run)
        eventually(lambda: scheduler.counts["archive failures"] >= 2, "failures")
        assert stage.runs.summary(run).state == "succeeded"
        monkeypatch.setattr(MemoryFileSystem, "put_file", put_file)
        removed(stage, run)
    with Client(stage.url, archive_url=url) as client:
        assert client.run(run).result(1) == {"left": {"value": 1}, "right": 1}
    idle(stage)


# --- the budget ---------------------------------------------------------------------------------------------


def test_beyond_the_budget_the_oldest_go_before_their_time(redis_url: str, folder: Path) -> None:
    """What ended runs take stays below the budget, and what is left are the newest; also after the archive failed."""
    stage = Stage(redis_url, shards=1)
    stage.publish("echo")
    worker = Echo(stage.attempts, lambda task: Ending(value={"text": "x" * 20_000}))
    with stage.scheduler(AtOnce(worker)):
        runs = [stage.submit(layers(2)) for _ in range(10)]
        for run in runs:
            stage.ended(run)
    found = EndedRuns(stage.runs)
    weights = []
    for run in runs:
        it = found.look(run)
        assert it is not None
        weights.append(found.weigh(it))
    assert all(40_000 < weight < 80_000 for weight in weights)
    budget = sum(weights[-4:]) + 1000
    mend = _blocked(folder)
    with stage.scheduler(
        AtOnce(worker), retention=at_once_to(folder, retention_seconds="never", retention_bytes=budget)
    ) as scheduler:
        eventually(lambda: scheduler.counts["archive failures"] >= 2, "failures")
        assert all(stage.runs.summaries(runs))
        mend()
        removed(stage, *runs[:6])
        later = [stage.submit(layers(2)) for _ in range(2)]
        stage.ended(*later)
        removed(stage, *runs[6:8])
    assert all(stage.runs.summaries([*runs[8:], *later]))
    assert scheduler.counts["removed"] == 8
    idle(stage)


def test_large_outputs_count_in_the_budget(redis_url: str, folder: Path) -> None:
    """A run whose outputs were put aside weighs what they weigh."""
    stage = Stage(redis_url, shards=1)
    stage.publish("echo")
    with stage.scheduler(AtOnce(Echo(stage.attempts, act))):
        run = stage.submit(everything())
        stage.ended(run)
    found = EndedRuns(stage.runs)
    it = found.look(run)
    assert it is not None
    assert found.weigh(it) > 3_000_000


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


# --- deaths -------------------------------------------------------------------------------------------------

DEATHS = [
    "reading",
    "before renaming",
    "archived",
    "before removal",
    "after removal",
    "within sweep",
    "before the last",
]


class Fallen(NamedTuple):
    """An installation whose scheduler has killed itself, and its two runs."""

    dies: str
    stage: Stage
    runs: list[RunId]


@pytest.fixture
def fallen(redis_url: str, folder: Path) -> Iterator[list[Fallen]]:
    """One installation for each death, all in one Redis, each with a small run of all kinds and one of 1,100 nodes."""
    found, processes = [], []
    for number, dies in enumerate(DEATHS):
        stage = Stage(redis_url, f"n{number}", shards=1)
        stage.publish("echo")
        with stage.scheduler(AtOnce(Echo(stage.attempts, act)), standard_low={"window": 2_000}):
            runs = [stage.submit(everything()), stage.submit(layers(1_100))]
            stage.ended(*runs)
        given = {
            "url": stage.url,
            "namespace": stage.namespace,
            "shards": 1,
            "lease": 1.0,
            "dies": dies,
            "nth": {"reading": 30, "within sweep": 2}.get(dies, 1),
            "counts": os.devnull,
            "retention": at_once_to(folder),
        }
        command = [sys.executable, "-m", "tests.integration.dying", json.dumps(given)]
        processes.append(subprocess.Popen(command, cwd=ROOT))
        found.append(Fallen(dies, stage, runs))
    try:
        assert [process.wait(60) for process in processes] == [-signal.SIGKILL] * len(DEATHS)
        yield found
    finally:
        for process in processes:
            process.kill()
            process.wait(20)


def test_a_death_between_any_two_steps_loses_nothing(fallen: list[Fallen], folder: Path) -> None:
    """Killed while reading, before and after the file is there, before and after the removal, within a sweep: at each
    instant a run is whole in Redis or whole in the archive, and the next scheduler ends what was begun.
    """
    ends = [{"failed"}, {"succeeded"}]
    for dies, stage, runs in fallen:
        check(stage.client, stage.namespace)
        there = [it is not None for it in stage.runs.summaries(runs)]
        assert all(there) == (dies in DEATHS[:4]), dies
        for run, still_there in zip(runs, there, strict=True):
            assert still_there or archive_of(folder).find(run), dies
    for dies, stage, runs in fallen:
        stage.owners_vanish()
        with stage.scheduler(AtOnce(Echo(stage.attempts)), retention=at_once_to(folder)):
            removed(stage, *runs)
        check(stage.client, stage.namespace, idle=True)
        for run, wanted in zip(runs, ends, strict=True):
            shelf = archive_of(folder).find(run)
            assert shelf is not None, dies
            assert {shelf.summary(run).state.value} == wanted, dies
        assert len(states(folder, runs[1])) == 1_100
    assert list((folder / ".parts").iterdir()) == []


# --- memory -------------------------------------------------------------------------------------------------


def test_the_memory_of_redis_is_as_before_after_a_thousand_runs(
    stage: Stage, worker: Echo, at_once: AtOnce, folder: Path
) -> None:
    """What runs bring goes with them: a thousand more leave no more than the hundred before them."""

    def after(number: int) -> int:
        runs = [stage.submit(layers(1)) for _ in range(number)]
        removed(stage, *runs[-1:], seconds=60)
        eventually(lambda: not any(stage.client.zcard(stage.keys.shard(it).ended) for it in range(4)), "all", 60)
        eventually(stage.quiet, "quiet")
        stage.client.execute_command("MEMORY", "PURGE")
        return int(stage.client.info("memory")["used_memory_dataset"])

    with stage.scheduler(at_once, retention=at_once_to(folder)) as scheduler:
        first = after(100)
        second = after(1_000)
        assert scheduler.counts["removed"] == 1_100
    assert second - first < 50_000, f"{first} bytes, then {second}"
    idle(stage)
