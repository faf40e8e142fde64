"""Retention with a real loop: ended runs are archived, checked, removed; whatever goes wrong, nothing is lost by it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from scheduler import Client
from scheduler.archive.places import Folder
from scheduler.cli.doctor import examine
from scheduler.embedded import EmbeddedRedis
from scheduler.wire import RunId
from tests.integration.archived import act, archive_of, at_once_to, blocked, everything, removed
from tests.integration.echo import AtOnce, Echo
from tests.integration.stage import Stage, diamond, eventually, idle, owned

pytestmark = pytest.mark.usefixtures("quick")


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


def test_an_archive_that_refuses_keeps_every_run_and_is_told_once(
    stage: Stage, at_once: AtOnce, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is removed, the log says it once, it is counted, doctor tells it; when it works again all of them go."""
    mend = blocked(folder)
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
