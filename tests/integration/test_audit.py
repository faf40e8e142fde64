"""`celeriac doctor --deep`: each kind of damage is told with a remedy; sound stores are not accused, busy or not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from scheduler.cli.doctor import doctor_command
from scheduler.service.transport import MemoryTransport
from scheduler.store.audit import audit
from scheduler.store.runs import Runs
from tests.integration.echo import STANDARD, AtOnce, Echo, EchoWorker, tasks
from tests.integration.stage import Stage, diamond, eventually, layers
from tests.integration.test_invariants import SHARD, Planted


@pytest.fixture(autouse=True)
def invariants() -> None:
    """In place of the check after each test: damage is what these plant."""


def told(runs: Runs) -> list[str]:
    """What the audit tells, one line each."""
    found = list(audit(runs, pause_seconds=0.001))
    assert all(it.found for it in found)
    return [f"{it.where}: {it.found}" for it in found]


DAMAGE: dict[str, Callable[[Planted], Any]] = {
    "its counters say": lambda it: it.client.hset(it.keys.run(it.good), "progress", '{"failed": 4}'),
    "is succeeded, and 1 of its nodes are open": lambda it: it.record(it.good, 3, "S|", "P|"),
    "is running, and none of its nodes is open": lambda it: it.client.hset(
        it.keys.nodes(it.live, 0), mapping={str(node): "C|1|0|0|0||" for node in range(4)}
    ),
    "is not listed as live": lambda it: (
        it.client.zrem(it.keys.live, it.live),
        it.client.zadd(it.keys.ended, {it.live: 1}),
    ),
    "is listed neither as live nor as ended": lambda it: it.client.zrem(it.keys.live, it.live),
    "is listed, and is not there": lambda it: it.client.zadd(it.keys.ended, {"0" * 26: 1}),
    "is listed, and is no run id": lambda it: it.client.zadd(it.keys.live, {"nonsense": 1}),
    "has no instant of its end": lambda it: it.client.hdel(it.keys.run(it.good), "ended_at_ms"),
    "cannot be read": lambda it: it.client.hset(it.keys.nodes(it.good, 0), 1, "gibberish"),
    "its graph has 0 of 1 pages": lambda it: it.client.delete(it.keys.spec(it.live)),
    "and its attempt is not in flight": lambda it: (
        it.client.delete(it.keys.attempts),
        it.client.delete(it.keys.leases),
    ),
    "has no lease, so its loss would go unnoticed": lambda it: it.client.delete(it.keys.leases),
    "has a lease and is not out": lambda it: it.client.zadd(it.keys.leases, {f"{SHARD}.{it.good}.0.1.1": 1}),
    "is in flight, and its node's record says": lambda it: it.client.hset(
        it.keys.attempts, f"{SHARD}.{it.live}.0.1.7", "s|standard-low|1|1"
    ),
    "is in flight, and the run does not live": lambda it: it.client.hset(
        it.keys.attempts, f"{SHARD}.{it.good}.0.1.1", "s|standard-low|1|1"
    ),
    "is in flight, and no attempt here": lambda it: it.client.hset(it.keys.attempts, "what", "s|c|1|1"),
    "waits for its instant, and no timer is set": lambda it: it.client.zremrangebyrank(it.keys.timers, 0, -1),
    "is set, and the run does not live": lambda it: it.client.zadd(it.keys.timers, {f"{it.good} grace": 1}),
    "is set, and its node does not wait for it": lambda it: it.client.zadd(it.keys.timers, {f"{it.live} retry:0:1": 1}),
    "is being cancelled, and no timer ends that": lambda it: it.client.zrem(it.keys.timers, f"{it.stopping} grace"),
    "which is no attempt of a run": lambda it: it.client.rpush(it.keys.outbox, f"{SHARD}.{'0' * 26}.0.1.1"),
    "its output or error is not there": lambda it: it.client.hdel(it.keys.values(it.good, 0), 1),
    "has a value and no record": lambda it: it.client.hset(it.keys.values(it.live, 0), 3, "1"),
    "is gone": lambda it: it.client.delete(it.keys.blob(f"{SHARD}.{it.good}.0.1.1")),
    "vanishes in": lambda it: it.client.expire(it.keys.blob(f"{SHARD}.{it.good}.0.1.1"), 500),
    "the log ends it by succeed, its record does not": lambda it: it.client.xadd(
        it.keys.log(it.live), {"moves": '[[3,"succeed",1,-1,""]]'}
    ),
    "and its log says failed": lambda it: it.client.xadd(it.keys.log(it.good), {"moves": '[[-1,"failed",0,-1,""]]'}),
    "has ended, and its log is empty": lambda it: it.client.delete(it.keys.log(it.good)),
    "began before what it waits for had ended": lambda it: it.record(it.good, 1, "S|", "D|"),
    "which is not there": lambda it: it.client.hset(it.keys.nodes("0" * 26, 0), 0, "x"),  # type: ignore[arg-type]
    "they never expire": lambda it: it.client.hset(it.keys.staged(it.good, f"{'a' * 32}:{'b' * 16}"), "0", "x"),
    "there are only 4 shards": lambda it: it.client.set("{cel:9}:epoch", 1),
    "the table of owners says": lambda it: it.client.set(it.keys.epoch, "99.1"),
}
"""What the audit must say -> how it comes about."""


def test_every_kind_of_damage_is_told(redis_url: str) -> None:
    """Planted one by one into a sound store with runs in every state; what was sound before is sound after."""
    stage = Stage(redis_url)
    it = Planted(stage)
    assert told(stage.runs) == []
    sound = {key: (stage.client.pttl(key), stage.client.dump(key)) for key in stage.client.scan_iter()}
    for says, plant in DAMAGE.items():
        plant(it)
        found = told(stage.runs)
        assert any(says in line for line in found), f"{says!r} is not among {found}"
        stage.client.flushall()
        for key, (ttl, raw) in sound.items():
            stage.client.restore(key, max(ttl, 0), raw)
    assert told(stage.runs) == []


def test_a_busy_system_is_not_accused(stage: Stage) -> None:
    """While runs of every kind begin, work and end, nothing is told."""
    stage.publish("echo")
    with EchoWorker(stage.url, [STANDARD]) as worker, stage.scheduler():
        runs = [stage.submit(layers(20, 20)) for _ in range(4)]
        eventually(lambda: len(worker.done) > 50)
        looks = 0
        while not all(it and it.state == "succeeded" for it in stage.runs.summaries(runs)):
            assert list(audit(stage.runs, pause_seconds=0.1)) == []
            looks += 1
            stage.submit(diamond())
        assert looks
        assert stage.ended(*runs) == ["succeeded"] * 4
    assert told(stage.runs) == []


def test_the_command_tells_and_exits_accordingly(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """0 and a line of praise for a sound store, 1 and the differences with what to do otherwise; the same as JSON."""
    with stage.scheduler(at_once):
        run = stage.submit(diamond())
        assert stage.ended(run) == ["succeeded"]

        def doctor() -> tuple[int, dict[str, Any]]:
            done = CliRunner().invoke(doctor_command, ["--deep", "--redis", stage.url, "-o", "json"])
            return done.exit_code, json.loads(done.stdout)

        code, document = doctor()
        assert [it["found"] for it in document["findings"] if it["subject"] == "store"] == [
            "all that is stored agrees with itself"
        ]
        assert not any(it["state"] == "wrong" and it["subject"].startswith("run") for it in document["findings"])
        keys = stage.keys.shard(stage.runs.shard(run))
        stage.client.hset(keys.run(run), "progress", "{}")
        code, document = doctor()
        assert code == 1
        [wrong] = [it for it in document["findings"] if it["subject"] == f"run {run}"]
        assert wrong["state"] == "wrong"
        assert "its counters say 4 open, its records 4 succeeded" in wrong["found"]
        assert wrong["remedy"]
        stage.client.hset(keys.run(run), "progress", '{"succeeded": 4}')
        stage.client.hset(keys.rewound, mapping={"at_ms": 1, "missing": 7, "times": 2})
        _, document = doctor()
        [note] = [it for it in document["findings"] if it["subject"].startswith("shard ")]
        assert "went back in time 2 times" in note["found"]
        assert "lost 7 or more acknowledged commits" in note["found"]


def test_what_goes_by_itself_is_not_told(stage: Stage, memory: MemoryTransport) -> None:
    """A difference counts only when every reading finds it."""
    with stage.scheduler(memory):
        run = stage.submit(diamond())
        eventually(lambda: tasks(memory))
    keys = stage.keys.shard(stage.runs.shard(run))
    lease = stage.client.zrange(keys.leases, 0, -1, withscores=True)
    stage.client.delete(keys.leases)
    looks = audit(stage.runs, pause_seconds=0.001)
    assert len(list(looks)) == 1

    passing = audit(stage.runs, pause_seconds=0.3)

    def mend() -> None:
        stage.client.zadd(keys.leases, dict(lease))

    timer = threading.Timer(0.15, mend)
    timer.start()
    assert list(passing) == []
    timer.join()


def test_what_is_left_of_a_run_that_is_being_removed_is_not_told(stage: Stage) -> None:
    """Records of a forgotten run belong to the sweeper, which knows of it; of a run nobody knows they do not."""
    run = stage.new_id()
    keys = stage.keys.shard(stage.runs.shard(run))
    stage.client.hset(keys.nodes(run, 0), "0", "S|1|1|0|0||n")
    assert [it.what for it in audit(stage.runs, pause_seconds=0.001)] == ["orphan"]
    stage.client.hset(keys.gone, run, "hash|100")
    assert list(audit(stage.runs, pause_seconds=0.001)) == []
