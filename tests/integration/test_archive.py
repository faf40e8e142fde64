"""The archive itself: files that are whole or not there, for their owner alone; odd content, damage, no fsspec."""

from __future__ import annotations

import asyncio
import gzip
import importlib.util
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scheduler import ArchiveError, Client, RunArchived, RunNotFound, SettingsError
from scheduler.archive import Archive, open_archive
from scheduler.archive.archive import name_of
from scheduler.archive.places import Folder
from scheduler.cli import main
from scheduler.store import ended
from scheduler.store.ended import Ended, EndedRuns, Removal, forget
from scheduler.wire import RunId
from tests.integration.echo import AtOnce, Echo
from tests.integration.stage import Stage, diamond, layers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the archive of a test lies."""
    return tmp_path / "archive"


@pytest.fixture
def archive(folder: Path) -> Archive:
    """An archive with nothing in it."""
    return Archive(Folder(folder))


@pytest.fixture
def run(stage: Stage) -> RunId:
    """A run that has ended."""
    return ended_run(stage)


def ended_run(stage: Stage, **facts: Any) -> RunId:
    """A diamond that has succeeded."""
    stage.publish("echo")
    with stage.scheduler(AtOnce(Echo(stage.attempts))):
        run = stage.submit(diamond(), **facts)
        assert stage.ended(run) == ["succeeded"]
    return run


def found(stage: Stage, run: RunId) -> Ended:
    """A run as the archivist finds it."""
    it = EndedRuns(stage.runs).look(run)
    assert it is not None
    return it


def put(stage: Stage, archive: Archive, run: RunId) -> Ended:
    """Archive a run."""
    it = found(stage, run)
    archive.put("cel", it, EndedRuns(stage.runs).pieces(it))
    return it


def forgotten(stage: Stage, it: Ended, key_seconds: int = 0) -> None:
    """Remove a run as its owner does."""
    epoch = stage.client.get(stage.keys.shard(it.shard).epoch)
    assert forget(stage.client, stage.keys, [Removal(it, epoch)], key_seconds) == ["forgotten"]


def lines(folder: Path, run: RunId) -> list[dict[str, Any]]:
    """A file as anybody can read it."""
    with gzip.open(folder / name_of(run), "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_a_file_is_json_lines_for_its_owner_alone(stage: Stage, run: RunId, archive: Archive, folder: Path) -> None:
    """Readable with zcat and jq: facts, graph, nodes, log, end; mode 0600 in folders of mode 0700."""
    put(stage, archive, run)
    path = folder / name_of(run)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    first, page, *rest = lines(folder, run)
    assert (first["celeriac_archive"], first["run"], first["fields"]["state"]) == (1, run, "succeeded")
    assert page["graph"]["keys"] == ["a", "b", "c", "d"]
    assert [(it["key"], it["state"]) for it in rest if "node" in it] == [(key, "succeeded") for key in "abcd"]
    assert rest[-1] == {"end": len(rest) + 1}
    assert {tuple(it) for it in rest[4:-1]} == {("log", "moves")}


def test_the_same_run_gives_the_same_file(stage: Stage, run: RunId, archive: Archive, folder: Path) -> None:
    """So an archive that was cut off and is done again changes nothing."""
    put(stage, archive, run)
    before = (folder / name_of(run)).read_bytes()
    (folder / ".parts" / f"{run}.left").write_bytes(b"of a killed process")
    put(stage, archive, run)
    assert (folder / name_of(run)).read_bytes() == before
    assert list((folder / ".parts").iterdir()) == []


def test_what_is_no_text_and_no_json_is_archived_all_the_same(
    stage: Stage, run: RunId, archive: Archive, folder: Path
) -> None:
    """Whatever stands in the store comes out of the archive byte for byte."""
    keys = stage.keys.shard(stage.runs.shard(run))
    odd = b"\xff\x00{not json"
    stage.client.hset(keys.values(run, 0), "1", odd)
    stage.client.hset(keys.run(run), mapping={"later": odd})
    stage.client.execute_command("XADD", keys.log(run), "*", "news", odd)
    fields = stage.client.hgetall(keys.run(run))
    values = stage.client.hgetall(keys.values(run, 0))
    log = stage.client.xrange(keys.log(run))
    put(stage, archive, run)
    shelf = archive.find(run)
    assert shelf is not None
    here = shelf.keys.shard(shelf.shard(run))
    assert shelf.client.hgetall(here.values(run, 0)) == values
    assert shelf.client.xread({here.log(run): "0"}, 100)[0][1] == log
    mine = shelf.client.hgetall(here.run(run))
    assert {**mine, b"header": b""} == {**fields, b"header": b""}
    stage.client.flushdb()


@pytest.mark.parametrize("damage", ["cut", "empty", "no gzip", "other json", "no end"])
def test_a_damaged_file_is_told_and_written_anew(
    stage: Stage, run: RunId, archive: Archive, folder: Path, damage: str
) -> None:
    """Never half a run: an error that names the file; archiving the run again mends it."""
    put(stage, archive, run)
    path = folder / name_of(run)
    whole = path.read_bytes()
    broken = {
        "cut": whole[:-20],
        "empty": b"",
        "no gzip": b"hello",
        "other json": gzip.compress(b"[1]\n"),
        "no end": gzip.compress(b"".join(gzip.decompress(whole).splitlines(keepends=True)[:-1])),
    }
    path.write_bytes(broken[damage])
    with pytest.raises(ArchiveError, match=run):
        archive.find(run)
    assert list(archive.summaries()) == [] or damage in ("cut", "no end")
    put(stage, archive, run)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("odd", ["../../etc/passwd", "", "A" * 26, "0" * 25 + "/", "0" * 27, "0" * 25 + "\n"])
def test_only_a_run_id_becomes_a_path(archive: Archive, odd: str) -> None:
    """Whatever else is asked for is not found, before any file is looked at."""
    with pytest.raises(RunNotFound):
        archive.find(odd)


def test_links_and_strangers_in_the_folder_are_passed_over(
    stage: Stage, run: RunId, archive: Archive, folder: Path
) -> None:
    """A listing shows what is an archived run and nothing else."""
    put(stage, archive, run)
    (folder / name_of(run)).with_name("notes.jsonl.gz").write_bytes(b"x")
    (folder / name_of(run)).with_name("0" * 26 + ".jsonl.gz").write_bytes(b"x")
    (folder / "README").write_text("x")
    [summary] = archive.summaries()
    assert summary == stage.runs.summary(run)


def test_a_url_without_fsspec_says_what_to_install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """A folder works without it; an unknown scheme is told too."""
    with pytest.raises(SettingsError, match="archive_url"):
        open_archive("nosuchscheme://bucket")
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "fsspec" else real(name, *a))
    with pytest.raises(SettingsError, match=r"celeriac\[archive\]"):
        open_archive("memory://x")
    assert open_archive(str(folder)) is not None
    found = open_archive(f"file://{folder}")
    assert found is not None
    assert found.place.shown == str(folder)


def test_scripts_forget_and_sweep_on_every_redis(stage_each: Stage, folder: Path) -> None:
    """A small run with one call; a large one at once for readers, then bucket by bucket, if the epoch is still ours."""
    stage = stage_each
    small = ended_run(stage, key="k")
    with stage.scheduler(AtOnce(Echo(stage.attempts)), standard_low={"window": 2_000}):
        large = stage.submit(layers(700))
        stage.ended(large)
    forgotten(stage, found(stage, small), 60)
    assert stage.client.keys(f"*run:{small}*") == []
    keys = stage.keys.shard(stage.runs.shard(small))
    hash_ = diamond().compile().hash
    assert stage.client.get(keys.archived(small)).startswith(f"{hash_}|succeeded|".encode())
    assert 0 < stage.client.ttl(keys.archived(small)) <= 60
    it = found(stage, large)
    forgotten(stage, it)
    assert stage.runs.summaries([large]) == [None]
    assert len(stage.client.keys(f"*run:{large}:*")) == 14
    mine = stage.keys.shard(it.shard)
    assert EndedRuns(stage.runs).sweep(it.shard, b"no epoch") is False
    assert EndedRuns(stage.runs).sweep(it.shard, stage.client.get(mine.epoch)) is True
    assert stage.client.keys(f"*{large}*") == []
    assert stage.client.hgetall(mine.gone) == {}
    assert ended.SWEEP(stage.client, [mine.epoch, mine.gone], [stage.client.get(mine.epoch), large]) == b"done"  # type: ignore[attr-defined]


def test_a_full_redis_can_be_emptied(stage_each: Stage, archive: Archive) -> None:
    """At the limit of its memory it refuses writes, but an ended run with a key goes, and its key is remembered."""
    stage = stage_each
    run = ended_run(stage, key="k")
    stage.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(Exception, match="maxmemory"):
            stage.client.set("x", "y")
        it = put(Stage(stage.url), archive, run)
        forgotten(stage, it, 60)
    finally:
        stage.client.config_set("maxmemory", 0)
    assert stage.runs.summaries([run]) == [None]
    assert stage.runs.remembered(run)


def test_workers_and_executors_that_vanished_are_forgotten(stage: Stage) -> None:
    """A killed worker's announcement lasts a day, an executor's contract a month; what lives stays."""
    runs = EndedRuns(stage.runs)
    stage.publish("lives", "vanished", "of an older version")
    for name in ("lives", "vanished"):
        stage.attempts.announce_worker(name, {"queue_class": "x"})
    day_ms = 86_400_000
    seen = json.loads(stage.client.hget(stage.keys.workers, "vanished"))
    seen["seen_at_ms"] -= day_ms + 1000
    stage.client.hset(stage.keys.workers, "vanished", json.dumps(seen))
    stage.client.hset(stage.keys.workers, "no json", "x")
    stage.client.zadd(stage.keys.executors_seen, {"vanished": stage.runs.now_ms() - 31 * day_ms})
    stage.client.zrem(stage.keys.executors_seen, "of an older version")
    version = stage.runs.contracts_version()

    runs.tidy()
    assert list(stage.runs.workers()) == ["lives"]
    assert set(stage.runs.contracts()) == {"lives", "of an older version"}
    assert stage.runs.contracts_version() == version + 1
    assert stage.client.zscore(stage.keys.executors_seen, "of an older version")
    runs.tidy()
    assert stage.runs.contracts_version() == version + 1


def test_a_worker_confirms_its_contracts_without_putting_an_old_one_over_a_new_one(stage: Stage) -> None:
    """A worker of the version before, which runs on for days, keeps its executors known and changes nothing."""
    stage.publish("a", "b", note="new")
    stage.client.hdel(stage.keys.executors, "b")
    stage.client.delete(stage.keys.executors_seen)
    stage.attempts.publish_contracts({name: {"name": name, "note": "old"} for name in "ab"}, again=True)
    assert {name: it["note"] for name, it in stage.runs.contracts().items()} == {"a": "new", "b": "old"}
    assert stage.client.zcard(stage.keys.executors_seen) == 2


# --- who reads without knowing the archive ------------------------------------------------------------------


@pytest.fixture
def gone(stage: Stage, archive: Archive) -> RunId:
    """A run with a key that was archived and removed."""
    run = ended_run(stage, key="k")
    forgotten(stage, put(stage, archive, run), 60)
    stage.client.hset(stage.keys.meta, "archive", archive.place.shown)
    return run


def test_a_client_that_does_not_know_the_archive_is_told_where_it_is(stage: Stage, gone: RunId, folder: Path) -> None:
    """RunArchived names the place; a run that never was is not found, and neither is one without a key."""
    with Client(stage.url) as client:
        for ask in (lambda: client.run(gone).state, lambda: client.run(gone).wait(1), client.run(gone).nodes):
            with pytest.raises(RunArchived, match=str(folder)) as caught:
                ask()
            assert caught.value.place == str(folder)
        with pytest.raises(RunNotFound, match=f"{folder}: set CELERIAC_ARCHIVE_URL") as missed:
            _ = client.run(stage.new_id()).state
        assert not isinstance(missed.value, RunArchived)
    with (
        Client(stage.url, archive_url=str(folder / "elsewhere")) as client,
        pytest.raises(RunArchived, match="named here"),
    ):
        client.run(gone).result(1)


def test_an_archived_run_cannot_be_retried_or_cancelled(stage: Stage, gone: RunId, folder: Path) -> None:
    """A retry says what to do instead; a cancel finds that the run has ended and does nothing."""
    with Client(stage.url, archive_url=str(folder)) as client:
        with pytest.raises(RunArchived, match="submit its graph again"):
            client.run(gone).retry(timeout=5)
        client.run(gone).cancel()
        assert client.run(gone).state == "succeeded"


def test_coroutines_read_archived_runs_too(stage: Stage, gone: RunId, folder: Path) -> None:
    """The twins with an `a` answer the same."""

    async def ask() -> tuple[Any, Any, int]:
        async with Client(stage.url, archive_url=str(folder)) as client:
            handle = client.run(gone)
            return await handle, await handle.aresult(1), len([event async for event in handle.events()])

    assert asyncio.run(ask()) == ("succeeded", {"left": {"value": 1}, "right": 1}, 13)


# --- the command line ---------------------------------------------------------------------------------------


@pytest.fixture
def command(stage: Stage, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`celeriac ...` on this installation with its archive; gives standard output."""
    monkeypatch.setenv("CELERIAC_REDIS_URL", stage.url)
    monkeypatch.setenv("CELERIAC_ARCHIVE_URL", str(folder))

    def call(*words: str, status: int = 0) -> str:
        said = CliRunner().invoke(main, list(words))
        assert said.exit_code == status, said.output
        return said.stdout

    return call


def test_commands_show_an_archived_run_as_they_did_before(
    stage: Stage, archive: Archive, command: Callable[..., str]
) -> None:
    """show, show --nodes, show --node, result, watch: the same words, from the archive."""
    run = ended_run(stage, key="k", labels='{"team": "a"}')
    asked = [
        ("runs", "show", run),
        ("runs", "show", run, "--nodes", "-o", "json"),
        ("runs", "show", run, "--node", "b"),
        ("runs", "result", run),
        ("runs", "watch", run),
    ]
    before = [command(*words) for words in asked]
    listed = command("runs", "ls")
    forgotten(stage, put(stage, archive, run), 60)
    assert [command(*words) for words in asked] == before
    assert command("runs", "ls") == listed.splitlines()[0] + "\n"
    assert command("runs", "ls", "--archived") == listed
    assert command("runs", "ls", "--archived", "--label", "team=b") == listed.splitlines()[0] + "\n"
    command("runs", "show", stage.new_id(), status=5)


def test_an_ended_run_is_archived_when_somebody_asks_for_it(
    stage: Stage, folder: Path, command: Callable[..., str]
) -> None:
    """`runs archive`: before its time, and only when it has ended; other runs stay."""
    stage.publish("echo")
    with stage.scheduler(AtOnce(Echo(stage.attempts)), retention={"archive_url": str(folder)}):
        run, other = (stage.submit(diamond()) for _ in range(2))
        stage.ended(run, other)
        live = stage.submit(diamond_for_nobody())
        command("runs", "archive", live, status=2)
        assert command("runs", "archive", run) == f"{run}\n"
    assert [it is not None for it in stage.runs.summaries([run, other, live])] == [False, True, True]
    assert json.loads(command("runs", "result", run)) == {"left": {"value": 1}, "right": 1}


def diamond_for_nobody() -> Any:
    """A graph whose executor nobody has."""
    from scheduler.graph import Graph

    graph = Graph("waits")
    graph.add("nobody has it")
    return graph
