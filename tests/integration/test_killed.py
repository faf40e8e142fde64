"""Schedulers as processes: shared shards, kill -9, a pause longer than the lease, a clean exit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.wire import RunId
from tests.integration.echo import STANDARD, AtOnce, Echo, EchoWorker, Task
from tests.integration.invariants import check
from tests.integration.stage import Stage, eventually, layers, owned

ROOT = Path(__file__).parents[2]
LEASE_SECONDS = 1.0
Start = Callable[..., "Process"]


class Process:
    """One scheduler process (dying.py)."""

    def __init__(self, stage: Stage, counts: Path, dies: str = "never", nth: int = 1) -> None:
        self.stage = stage
        self.counts = counts
        given = {
            "url": stage.url,
            "namespace": stage.namespace,
            "shards": stage.shards,
            "lease": LEASE_SECONDS,
            "dies": dies,
            "nth": nth,
            "counts": str(counts),
        }
        self.popen = subprocess.Popen([sys.executable, "-m", "tests.integration.dying", json.dumps(given)], cwd=ROOT)

    def owns(self) -> list[int]:
        """Its shards, by the table."""
        mine = f":{self.popen.pid}:"
        return sorted(shard for shard, owner in owned(self.stage.client).items() if mine in owner)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.popen.pid, number)

    def stopped(self) -> dict[str, int]:
        """Ask it to stop; what it counted."""
        self.send(signal.SIGTERM)
        assert self.popen.wait(20) == 0
        counted: dict[str, int] = json.loads(self.counts.read_text())
        return counted

    def end(self) -> None:
        """Whatever it does, it ends."""
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait(20)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts schedulers; those that still live are killed after the test."""
    started: list[Process] = []

    def begin(stage: Stage, dies: str = "never", nth: int = 1) -> Process:
        process = Process(stage, tmp_path / f"counts-{len(started)}.json", dies, nth)
        started.append(process)
        return process

    yield begin
    for it in started:
        it.end()


def dispatched_once(stage: Stage, *runs: RunId) -> None:
    """Every node of these runs went out once and ended once, by their logs and records."""
    for run in runs:
        loaded = stage.load(run)
        assert set(loaded.attempt) == {1}
        counted = Counter(word for _, word, *_ in stage.moves(run))
        assert counted["dispatch"] <= loaded.n
        assert counted["succeed"] <= loaded.n


def test_schedulers_that_kill_themselves_one_after_the_other_lose_nothing(redis_url: str, start: Start) -> None:
    """Kill -9 before, within and after a commit, and after publishing: each time another takes over and goes on."""
    stage = Stage(redis_url, shards=1)
    stage.publish("echo")
    runs = [stage.submit(layers(3, 6)) for _ in range(3)]
    with EchoWorker(stage.url, [STANDARD]) as worker:
        mortal = [
            start(stage, dies, 2)
            for dies in ("before a commit", "within a commit", "after a commit", "after publishing")
        ]
        for process in mortal:
            assert process.popen.wait(30) == -signal.SIGKILL
        last = start(stage)
        assert stage.ended(*runs) == ["succeeded"] * 3
        counted = last.stopped()
    assert not counted.get("crashes")
    assert len(worker.done) == len({task.id for task in worker.done}) == 3 * 18
    dispatched_once(stage, *runs)
    check(stage.client, idle=True)


def test_a_killed_scheduler_s_shards_are_taken_over_within_the_lease(redis_url: str, start: Start) -> None:
    """Two share; one is killed while nodes are on their way. The other has everything within the lease."""
    stage = Stage(redis_url)
    stage.publish("echo")
    a, b = start(stage), start(stage)
    eventually(lambda: len(a.owns()) == len(b.owns()) == 2, "two shards each")
    with EchoWorker(stage.url, [STANDARD]) as worker:
        runs = [stage.submit(layers(5, 20), shard=shard) for shard in range(4)]
        eventually(lambda: all(any(run in task.id for task in worker.done) for run in runs))
        a.send(signal.SIGKILL)
        killed_at = time.monotonic()
        eventually(lambda: b.owns() == [0, 1, 2, 3])
        assert time.monotonic() - killed_at < LEASE_SECONDS + 2  # and what a busy machine takes
        assert stage.ended(*runs) == ["succeeded"] * 4
        assert not b.stopped().get("crashes")
    assert len(worker.done) == len({task.id for task in worker.done}) == 400
    dispatched_once(stage, *runs)
    check(stage.client, idle=True)


def test_a_former_owner_that_wakes_up_changes_nothing(redis_url: str, start: Start) -> None:
    """Stopped for longer than its lease, it goes on with what it had in memory: refused whole, forgotten, rejoined."""
    stage = Stage(redis_url, shards=2)
    stage.publish("echo")
    a, b = start(stage), start(stage)
    eventually(lambda: len(a.owns()) == len(b.owns()) == 1, "one shard each")
    [shard] = a.owns()
    worker = Echo(stage.attempts)
    memory: list[Task] = []

    def fetch() -> list[Task]:
        memory.extend(map(Task.from_redis, stage.client.rpop(STANDARD, 10) or []))
        return memory

    run = stage.submit(layers(1, 3), shard=shard)
    eventually(fetch)

    def stopped_in_a_read() -> bool:
        a.send(signal.SIGSTOP)
        if sum("b" in it["flags"] for it in stage.client.client_list()) == 2:
            return True
        a.send(signal.SIGCONT)
        return False

    eventually(stopped_in_a_read)
    worker.take(memory)  # its report reaches the inbox that the stopped process blocks on
    eventually(lambda: b.owns() == [0, 1])
    eventually(lambda: len(fetch()) == 2)
    a.send(signal.SIGCONT)
    eventually(lambda: len(a.owns()) == 1, "its share again")
    worker.take(memory[1:])
    eventually(lambda: len(fetch()) == 3)
    worker.take(memory[2:])
    assert stage.ended(run) == ["succeeded"]
    fenced = a.stopped().get("fenced", 0)
    assert not b.stopped().get("fenced")
    assert fenced >= 1
    assert len({task.id for task in memory}) == 3
    assert not worker.refused
    dispatched_once(stage, run)
    check(stage.client, idle=True)


def test_a_clean_exit_hands_over_at_once(stage: Stage) -> None:
    """Not when the lease ends, nor at the next round: the others are told."""
    stage.publish("echo")
    worker = Echo(stage.attempts)
    long: dict[str, Any] = {"shard_lease_seconds": 60.0}
    with stage.scheduler(AtOnce(worker), **long) as first:
        eventually(lambda: len(owned(stage.client)) == 4)
        with stage.scheduler(AtOnce(worker), **long) as second:
            eventually(lambda: stage.client.zcard(stage.keys.schedulers) == 2)
            stage.client.xadd(stage.keys.shard(0).inbox, {"look": "test"})  # the first gives half of its shards away
            eventually(lambda: first.name in owned(stage.client).values() and len(owned(stage.client)) == 2)
            second._owned.look_again()
            eventually(lambda: set(owned(stage.client).values()) == {first.name, second.name})
            runs = [stage.submit(layers(2, 2), shard=shard) for shard in range(4)]
            assert stage.ended(*runs) == ["succeeded"] * 4
        eventually(lambda: list(owned(stage.client).values()) == [first.name] * 4, seconds=5)
        assert stage.ended(stage.submit(layers(1), shard=3)) == ["succeeded"]
    check(stage.client, idle=True)
