"""More work than the workers can take: whoever floods the system waits, and the others do not wait for them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from click.testing import CliRunner

from scheduler.cli import main
from scheduler.cli.doctor import examine
from scheduler.cli.work import demand_of
from scheduler.client.views import Workers
from scheduler.core.run import FOLLOWED_AT_ONCE, Run
from scheduler.core.states import NodeState, RunState
from scheduler.graph import Graph
from scheduler.service import loading, loop
from scheduler.service.batch import Batch
from scheduler.service.held import Held
from scheduler.service.loading import OPENED_AT_ONCE
from scheduler.service.transport import MemoryTransport
from scheduler.store import inboxes
from scheduler.store.inboxes import READ_BYTES, Entry, Inboxes
from scheduler.wire import RunId
from tests.integration.echo import STANDARD, AtOnce, Echo, EchoWorker, Ending, Task, tasks, value
from tests.integration.stage import Stage, diamond, eventually, idle, layers, owned


def flood(nodes: int) -> Graph:
    """Nodes that could all run at once."""
    graph = Graph("flood")
    for _ in range(nodes):
        graph.add("echo")
    return graph


def test_small_runs_beside_a_flood_end_while_it_has_hardly_begun(stage: Stage) -> None:
    """Of 30,000 nodes submitted at once, in the same shard and in others: runs submitted after it take their turns."""
    stage.publish("echo")
    compiled = flood(30_000).compile()
    with (
        EchoWorker(stage.url, [STANDARD], lambda task: Ending(kind="none")),
        stage.scheduler(standard_low={"window": 50}),
    ):
        eventually(lambda: len(owned(stage.client)) == stage.shards)
        wide = stage.new_id(0)
        stage.runs.submit(wide, compiled, {})
        small = [stage.submit(diamond(), shard=shard) for _ in range(5) for shard in range(stage.shards)]
        eventually(
            lambda: all(it is not None and it.state is RunState.SUCCEEDED for it in stage.runs.summaries(small)),
            "the small runs' ends",
        )
        done = stage.runs.summary(wide).progress.get("succeeded", 0)
        assert done < 15_000, "the small runs waited for the flood"
        stage.runs.cancel(wide, "enough")
        assert stage.ended(wide) == ["cancelled"]
    idle(stage)


def test_a_small_run_overtakes_a_flood_of_its_own_class(stage: Stage) -> None:
    """Each of its three hops waits for a short queue, though 500 of the class may be in flight: such is the pace."""
    stage.publish("echo")

    def work(_: Task) -> Ending:
        time.sleep(0.002)  # the work
        return Ending(kind="none")

    with EchoWorker(stage.url, [STANDARD], work, at_once=1) as worker, stage.scheduler():
        eventually(lambda: len(owned(stage.client)) == stage.shards)
        wide = stage.submit(flood(20_000), shard=0)
        eventually(lambda: len(worker.done) > 200, "the flood's begin")
        for shard in range(stage.shards):
            before = len(worker.done)
            small = stage.submit(layers(1, 3), shard=shard)
            eventually(lambda: stage.runs.summary(small).state is RunState.SUCCEEDED, "the small run's end")  # noqa: B023
            last = max(at for at, task in enumerate(list(worker.done)) if f".{small}." in task.id)
            assert last - before < 200
        stage.runs.cancel(wide, "enough")
        assert stage.ended(wide) == ["cancelled"]
    idle(stage)


def test_many_slots_are_filled_though_nothing_ends(stage: Stage, memory: MemoryTransport) -> None:
    """Workers that take hundreds of messages and are busy with them for long: the class's whole window goes out."""
    memory.depth = lambda queue: 0  # type: ignore[method-assign]
    stage.publish("echo")
    with stage.scheduler(memory):
        wide = stage.submit(flood(2_000), shard=0)
        eventually(lambda: len(memory.sent) == 500)
        stage.runs.cancel(wide, "enough")
        assert stage.ended(wide) == ["cancelled"]
    idle(stage)


def test_what_nobody_takes_from_the_queue_is_not_added_to(stage: Stage, memory: MemoryTransport) -> None:
    """Twice what one worker holds; the queue is looked at once a second then."""
    stage.publish("echo")
    looks: list[str] = []
    depth = memory.depth

    def look(queue: str) -> int | None:
        looks.append(queue)
        return depth(queue)

    memory.depth = look  # type: ignore[method-assign]
    with stage.scheduler(memory):
        wide = stage.submit(flood(2_000), shard=0)
        eventually(lambda: len(looks) > 8)
        assert len(memory.sent) == 32
        stage.runs.cancel(wide, "enough")
        assert stage.ended(wide) == ["cancelled"]
    idle(stage)


def test_a_wide_run_is_opened_part_by_part_with_turns_for_others(
    stage: Stage, worker: Echo, at_once: AtOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One commit never carries all of it; a run submitted later ends before the wide one is open."""
    monkeypatch.setattr(loading, "OPENED_AT_ONCE", 100)
    worker.act = lambda task: Ending(kind="none")
    with stage.scheduler(at_once, standard_low={"window": 10}):
        wide = stage.submit(flood(8_000), shard=1)
        small = stage.submit(diamond(), shard=1)
        eventually(lambda: stage.runs.summary(small).state is RunState.SUCCEEDED, "the small run's end")
        eventually(lambda: readied(stage, wide) == 8_000, "all of it open")
        stage.runs.cancel(wide, "enough")
        assert stage.ended(wide) == ["cancelled"]
    ends = [at for at, _ in stage.runs.log(small, count=10_000)][-1]
    last = [at for at, moves in stage.runs.log(wide, count=10_000) if any(move[1] == "ready" for move in moves)][-1]
    assert _order(ends) < _order(last)
    idle(stage)


@pytest.mark.parametrize("short", ["time", "reads", "time, then reads"])
def test_a_lease_is_judged_after_the_reports_that_wait(
    stage: Stage, worker: Echo, memory: MemoryTransport, monkeypatch: pytest.MonkeyPatch, short: str
) -> None:
    """While no scheduler ran, workers reported and leases ended: whoever comes hears all the reports first."""
    with stage.scheduler(memory):
        run = stage.submit(flood(10), shard=1)
        eventually(lambda: len(memory.sent) == 10)
    sent = tasks(memory)
    claims = stage.attempts.claim([task.id for task in sent], worker.name, "t")
    for task, claim in zip(sent, claims, strict=True):
        stage.attempts.report([worker.report(task.id, Ending(kind="none"), claim.now_ms)])
    stage.lease_ends(*(task.id for task in sent))
    if short == "time":
        monkeypatch.setattr(loop, "TURN_SECONDS", 0.0)
    else:
        monkeypatch.setattr(inboxes, "READ_COUNT", 16)  # two at first
    if short == "time, then reads":  # four are there by the third turn, so none is asked for, and all four are taken
        turns = iter([0.0, 0.0])
        monkeypatch.setattr(loop.Scheduler, "_turn_ends", lambda _: next(turns, time.monotonic() + 60))
    with stage.scheduler(memory) as scheduler:
        assert stage.ended(run) == ["succeeded"]
        assert scheduler.counts["leases ended"] == 0
    assert len(memory.sent) == 10
    idle(stage)


def test_a_wide_run_is_cancelled_part_by_part_with_turns_for_others(
    stage: Stage, memory: MemoryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is sent any more; a run cancelled after it ends before it; a new owner goes on in the middle; and
    each node is cancelled once.
    """
    monkeypatch.setattr(loading, "OPENED_AT_ONCE", 500)
    stage.publish("echo")
    real, held_up = loading.Loading._open_part, threading.Event()

    def half(self: loading.Loading, held: Held, batch: Batch, run: Run, first: int) -> None:
        if run.run_state is RunState.CANCELLING and first >= 2_000 and not held_up.is_set():
            held.to_open.append((run.id, first))  # in a turn to come
        else:
            real(self, held, batch, run, first)

    monkeypatch.setattr(loading.Loading, "_open_part", half)
    with stage.scheduler(memory):
        wide, small = stage.submit(flood(4_000), shard=1), stage.submit(diamond(), shard=1)
        eventually(lambda: readied(stage, wide) == 4_000, "all of it open")
        stage.runs.cancel(wide, "enough")
        stage.runs.cancel(small, "this too")
        eventually(lambda: stage.runs.summary(small).state is RunState.CANCELLED, "the small run's end")
        eventually(lambda: stage.runs.summary(wide).progress["cancelled"] >= 2_000)
        assert stage.runs.summary(wide).state is RunState.CANCELLING
    assert stage.runs.summary(wide).progress["cancelled"] < 4_000
    held_up.set()
    with stage.scheduler(memory):
        assert stage.ended(wide) == ["cancelled"]
    assert sum(f".{wide}." in headers["id"] for _, _, headers in memory.sent) <= 32
    cancelled = [node for node, word, *_ in stage.moves(wide) if word == "cancel"]
    assert sorted(cancelled) == list(range(4_000))
    idle(stage)


def readied(stage: Stage, run: RunId) -> int:
    """Nodes of a run that have become ready, by its log."""
    return sum(move[1] == "ready" for _, moves in stage.runs.log(run, count=10_000) for move in moves)


def _order(entry: str) -> tuple[int, int]:
    at, _, number = entry.partition("-")
    return int(at), int(number)


def test_a_thousand_submits_at_once_all_run_and_the_loop_goes_on(
    stage: Stage, worker: Echo, at_once: AtOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait in one inbox when the scheduler comes; with no time for more than one step a turn it takes them one by
    one, and each is loaded, opened and run once.
    """
    monkeypatch.setattr(loop, "TURN_SECONDS", 0.0)
    worker.act = lambda task: Ending(kind="none")
    compiled = layers(2).compile()
    runs = [stage.new_id(at % stage.shards) for at in range(300)]
    with stage.scheduler(at_once):
        eventually(lambda: len(owned(stage.client)) == stage.shards)
        for run in runs:
            stage.runs.submit(run, compiled, {})
        late = stage.submit(flood(OPENED_AT_ONCE + 10), shard=0)
        stage.runs.cancel(late, "asked for before it was loaded")
        assert stage.ended(*runs, late) == ["succeeded"] * len(runs) + ["cancelled"]
    assert len(worker.done) >= 600
    assert not worker.refused
    idle(stage)


def test_a_retry_of_a_wide_run_is_opened_part_by_part(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """All of it runs again, and a scheduler that takes over in the middle opens the rest."""
    worker.act = lambda task: Ending(kind="none")
    with stage.scheduler(at_once, standard_low={"window": 10}):
        wide = stage.submit(flood(2 * OPENED_AT_ONCE + 10))
        eventually(lambda: len(worker.done) > 20)
        stage.runs.cancel(wide, "for now")
        assert stage.ended(wide) == ["cancelled"]
    before = len(worker.done)
    with stage.scheduler(at_once):
        stage.runs.retry(wide, "go on")
        eventually(lambda: len(worker.done) > before)
    with stage.scheduler(at_once):
        assert stage.ended(wide) == ["succeeded"]
    assert len({task.node for task in worker.done}) == 2 * OPENED_AT_ONCE + 10
    idle(stage)


def many_for_one(count: int) -> Graph:
    """A node, so many that wait for it, and one that waits for them."""
    graph = Graph("many for one")
    first = graph.add("echo", key="first")
    many = [graph.add("echo", after=[first]) for _ in range(count)]
    graph.add("echo", key="last", after=many)
    return graph


def test_very_many_that_wait_for_one_node_become_ready_part_by_part(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In turns of their own, so that a run submitted meanwhile is not behind them; each because of that node."""
    parts: list[int] = []
    real = loading.Loading._follow_some

    def noting(self: loading.Loading, held: Held, batch: Batch, until: float) -> None:
        parts.extend(len(held.runs) for _ in held.to_follow)
        real(self, held, batch, until)

    monkeypatch.setattr(loading.Loading, "_follow_some", noting)
    stage.publish("echo")
    with EchoWorker(stage.url, [STANDARD], lambda task: Ending(kind="none")), stage.scheduler():
        wide = stage.submit(many_for_one(3 * FOLLOWED_AT_ONCE + 10), shard=1)
        assert stage.ended(wide, seconds=90) == ["succeeded"]
    assert len(parts) == 3, "it took more turns, or fewer, than there are parts behind the first"
    caused = [node for node, word, _, cause, _ in stage.moves(wide) if word == "ready" and cause == 0]
    assert sorted(caused) == list(range(1, 3 * FOLLOWED_AT_ONCE + 11))
    idle(stage)


def test_whoever_takes_over_between_the_parts_asks_the_others(
    stage: Stage, worker: Echo, at_once: AtOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was still to be asked stands nowhere but in the graph, and that is enough."""
    real, held_up = loading.Loading._follow_some, threading.Event()

    def late(self: loading.Loading, held: Held, batch: Batch, until: float) -> None:
        if held_up.is_set():
            real(self, held, batch, until)

    monkeypatch.setattr(loading.Loading, "_follow_some", late)
    with stage.scheduler(at_once):
        wide = stage.submit(many_for_one(FOLLOWED_AT_ONCE + 100))
        eventually(lambda: stage.runs.summary(wide).progress.get("succeeded") == FOLLOWED_AT_ONCE + 1, "the first part")
    held_up.set()
    with stage.scheduler(at_once):
        assert stage.ended(wide) == ["succeeded"]
    assert len(worker.done) == FOLLOWED_AT_ONCE + 102
    idle(stage)


def test_what_a_turn_has_no_time_for_is_kept_and_bounded(
    stage: Stage, worker: Echo, at_once: AtOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each entry is read once, and of an inbox that has brought enough no more is read, also where that are all."""
    monkeypatch.setattr(loop, "TURN_SECONDS", 0.0)  # one entry a turn of each
    monkeypatch.setattr(inboxes, "READ_COUNT", most := 16)
    hear, read = Held.hear, Inboxes.read
    kept, ids, asked = list[int](), list[bytes](), list[int]()

    def heard(self: Held, entries: Sequence[Entry]) -> None:
        hear(self, entries)
        kept.append(len(self.arrived))
        ids.extend(b"%d %s" % (self.keys.shard, it.id) for it in entries)

    def looked(self: Inboxes, after: Mapping[str, bytes], block_ms: int) -> tuple[dict[str, list[Entry]], int]:
        asked.append(len(after))
        return read(self, after, block_ms)

    monkeypatch.setattr(Held, "hear", heard)
    monkeypatch.setattr(Inboxes, "read", looked)
    compiled = layers(1).compile()
    runs = [stage.new_id(at % stage.shards) for at in range(60 * stage.shards)]
    for run in runs:
        stage.runs.submit(run, compiled, {})
    with stage.scheduler(at_once):
        assert stage.ended(*runs) == ["succeeded"] * len(runs)
    assert most <= max(kept) < 2 * most
    assert len(ids) == len(set(ids)) >= len(runs)
    assert 0 in asked
    idle(stage)


def test_large_outputs_are_read_a_few_at_a_time(stage: Stage) -> None:
    """However many wait: a read brings some megabytes, and more entries again once they are small."""
    inboxes = Inboxes(stage.client)
    keys = [stage.keys.shard(shard).inbox for shard in range(stage.shards)]
    for key in keys:
        with stage.client.pipeline() as pipe:
            for _ in range(100):
                pipe.xadd(key, {"report": b"r", "output": b"x" * 200_000})
            pipe.execute()
    after = dict.fromkeys(keys, b"0")
    sizes, seen = [], 0
    while seen < 400:
        found, _ = inboxes.read(after, 1)
        sizes.append(sum(len(part) for entries in found.values() for entry in entries for part in entry.fields))
        seen += sum(map(len, found.values()))
        after |= {key: entries[-1].id for key, entries in found.items()}
    assert max(sizes[1:]) <= 2 * READ_BYTES
    for key in keys:
        stage.client.delete(key)
        for _ in range(200):
            stage.client.xadd(key, {"report": b"r"})
    after = dict.fromkeys(keys, b"0")
    reads = 0
    while any(stage.client.xrange(key, f"({after[key].decode()}", count=1) for key in keys):
        found, _ = inboxes.read(after, 1)
        after |= {key: entries[-1].id for key, entries in found.items()}
        reads += 1
    assert reads < 20
    for key in keys:
        stage.client.delete(key)


def test_a_scheduler_loads_its_shards_one_by_one_and_keeps_them_meanwhile(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading that takes longer than the lease in all loses no shard: there are turns, and renewals, in between."""
    stage.publish("echo")
    slow = loading.Loading.load

    def load(*args: Any) -> None:
        time.sleep(0.4)  # a shard full of wide runs
        slow(*args)

    monkeypatch.setattr(loading.Loading, "load", load)
    worker = Echo(stage.attempts, value_of_nothing)
    with stage.scheduler(AtOnce(worker), shard_lease_seconds=1.0) as scheduler:
        runs = [stage.submit(diamond(), shard=shard) for shard in range(stage.shards)]
        assert stage.ended(*runs) == ["succeeded"] * stage.shards
        assert not scheduler.counts["fenced"]
    epochs = {line.decode().partition("|")[0].partition(".")[0] for line in stage.client.hvals(stage.keys.owners)}
    assert epochs == {"1"}, "a shard was lost and taken again"
    idle(stage)


def value_of_nothing(task: object) -> Ending:
    """An output that others read."""
    return value({"value": None})


def test_doctor_and_show_tell_how_long_ready_nodes_have_waited(
    stage: Stage, memory: MemoryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the records: the oldest is a node that nobody has had room for since its run was submitted, 90 s ago."""
    graph = Graph("waits")
    first = graph.add("echo", key="first")
    graph.add("echo", key="second", after=first)
    graph.add("echo", key="third")
    with stage.scheduler(memory, standard_low={"window": 1}):
        run = stage.submit(graph, shard=0)
        eventually(lambda: memory.sent)
        Echo(stage.attempts).take([Task.from_parts(*memory.sent[0][1:])])
        eventually(lambda: len(memory.sent) == 2)
    stage.client.hincrby(stage.keys.shard(0).run(run), "created_at_ms", -90_000)
    loaded = stage.load(run)
    sent = next(node for node in range(3) if loaded.state[node] == NodeState.DISPATCHED)
    ready = ({1, 2} - {sent}).pop()
    assert loaded.keys[ready] in ("second", "third")
    demand = demand_of(Workers.read(stage.runs, stage.settings()), [loaded])
    assert (demand.ready, demand.flying) == ({"standard-low": 1}, {"standard-low": 1})
    waited = stage.runs.now_ms() - demand.since_ms["standard-low"]
    assert 89_000 < waited < 120_000
    found = {it.subject: it.found for it in examine(stage.settings())}
    assert "1 nodes ready, the first for 1m" in found["class standard-low"]
    monkeypatch.setenv("CELERIAC_REDIS_URL", stage.url)
    said = CliRunner().invoke(main, ["runs", "show", run, "-o", "json"])
    waits = json.loads(said.stdout)["waits"]
    assert [waits[word]["nodes"] for word in ("ready", "sent")] == [1, 1]
    assert all(89_000 < it["longest_ms"] < 120_000 for it in waits.values())
    assert "1 ready, the first for 1m" in CliRunner().invoke(main, ["runs", "show", run]).stdout
    stage.client.hincrby(stage.keys.shard(0).run(run), "created_at_ms", 90_000)
