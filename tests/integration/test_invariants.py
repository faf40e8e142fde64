"""The invariants find what is planted: each kind of damage is seen, and sound stores are not accused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scheduler.core import verbs
from scheduler.graph import Graph, Retry
from scheduler.service.transport import MemoryTransport
from scheduler.wire import RunId
from tests.integration.echo import Echo, Ending, Task, echo, failure
from tests.integration.invariants import problems
from tests.integration.stage import Stage, eventually

SHARD = 2


class Planted:
    """A store with one run of each kind: ended well, failed, live with nodes in every open state, cancelling."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.client: Any = stage.client
        self.keys = stage.keys.shard(SHARD)
        stage.publish("echo")
        worker = Echo(stage.attempts, act)
        memory = MemoryTransport()
        with stage.scheduler(memory):
            self.good, self.bad, self.live, self.stopping = (stage.submit(graph(), shard=SHARD) for _ in range(4))
            sent = 0

            def work() -> bool:
                nonlocal sent
                tasks = [Task.from_parts(body, headers) for _, body, headers in memory.sent[sent:]]
                sent += len(tasks)
                for task in tasks:
                    run = task.id.split(".")[1]
                    worker.act = act if run == self.good else broken if run == self.bad else endless
                    worker.take([task])
                ended = stage.runs.summaries([self.good, self.bad])
                return [it.state.value for it in ended if it] == ["succeeded", "failed"] and sent == 4 + 3 + 3 + 3

            eventually(work)
            eventually(lambda: stage.states(self.live)["failing"] == "waiting")
            eventually(lambda: stage.states(self.stopping)["failing"] == "waiting")
            stage.runs.cancel(self.stopping, "stop")
            eventually(lambda: stage.runs.summary(self.stopping).state == "cancelling")
            eventually(lambda: not self.client.xlen(self.keys.inbox))

    def found(self, *, idle: bool = False) -> list[str]:
        """What the invariants say."""
        return list(problems(self.client, idle=idle))

    def record(self, run: RunId, node: int, old: str, new: str) -> None:
        """Change a node's record."""
        key = self.keys.nodes(run, 0)
        record = self.client.hget(key, node).decode()
        assert old in record
        self.client.hset(key, node, record.replace(old, new, 1))


def graph() -> Graph:
    """A node that has an output, one that fails, one that runs, one that waits for them."""
    it = Graph("planted", retry=Retry(max_attempts=2, base_seconds=3000, cap_seconds=3000))
    out = it.add("echo", key="out", x=1)
    failing = it.add("echo", key="failing")
    running = it.add("echo", key="running", timeout=3000)
    it.add("echo", key="end", x=out, after=[failing, running])
    return it


def act(task: Task) -> Ending:
    """Everything succeeds; one output is large."""
    return Ending(value=task.kwargs, kind="blob") if task.node == "out" else echo(task)


def broken(task: Task) -> Ending:
    """One fails for good."""
    return failure("permanent") if task.node == "failing" else act(task)


def endless(task: Task) -> Ending | None:
    """One waits for its next try, one runs for ever."""
    return (
        None if task.node == "running" else failure(retry_after_ms=3_000_000) if task.node == "failing" else act(task)
    )


@pytest.fixture
def planted(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Planted]:
    """A sound store to damage; emptied afterwards."""
    monkeypatch.setattr(verbs, "GRACE_MS", 3_000_000)
    yield Planted(stage)
    stage.client.flushall()


def test_a_sound_store_is_not_accused(planted: Planted) -> None:
    """Runs in every state, and nothing is wrong; that they are not done is seen when nothing may be left."""
    assert planted.found() == []
    idle = planted.found(idle=True)
    assert any("still in flight" in problem for problem in idle)
    assert any("still set" in problem for problem in idle)


DAMAGE: dict[str, Callable[[Planted], Any]] = {
    "nobody's key": lambda it: it.client.set("stray", 1),
    "no such key is known": lambda it: it.client.set(f"{it.keys.tag}:oubox", 1),
    "cel:spare: no such key is known": lambda it: it.client.set("cel:spare", 1),
    "is a string, expected a list": lambda it: (it.client.delete(it.keys.outbox), it.client.set(it.keys.outbox, 1)),
    "expires in": lambda it: it.client.expire(it.keys.run(it.good), 1000),
    "never expires": lambda it: it.client.hset(it.keys.staged(it.live, f"{'0' * 32}:{'0' * 16}"), "0", "x"),
    "there are only 4": lambda it: it.client.set("{cel:9}:epoch", 1),
    "belongs to": lambda it: it.client.rename(it.keys.run(it.good), it.keys.run(it.stage.new_id(1))),
    "the table of owners says": lambda it: it.client.set(it.keys.epoch, "99.1"),
    "in flight without a lease": lambda it: it.client.delete(it.keys.leases),
    "a lease and not in flight": lambda it: it.client.zadd(it.keys.leases, {f"{SHARD}.{it.live}.3.1.1": 1}),
    "is no state": lambda it: it.client.hset(it.keys.attempts, f"{SHARD}.{it.live}.2.1.1", "c|x"),
    "no attempt id of shard": lambda it: it.client.hset(it.keys.attempts, f"0.{it.live}.2.1.1", "s|x|1|1"),
    "there is no such run": lambda it: it.client.hset(it.keys.attempts, f"{SHARD}.{'0' * 26}.2.1.1", "s|x|1|1"),
    "its run does not live": lambda it: it.client.hset(it.keys.attempts, f"{SHARD}.{it.good}.0.1.1", "s|x|1|1"),
    "its node's record is S": lambda it: it.client.hset(it.keys.attempts, f"{SHARD}.{it.live}.0.1.1", "s|x|1|1"),
    "its node's record is D|1|2": lambda it: it.record(it.live, 2, "D|1|1", "D|1|2"),
    "is not in flight": lambda it: it.client.delete(it.keys.attempts, it.keys.leases),
    "is no attempt of a run there": lambda it: it.client.rpush(it.keys.outbox, f"{SHARD}.{'0' * 26}.1.1.1"),
    "both live and ended": lambda it: it.client.zadd(it.keys.ended, {it.live: 1}),
    "room is expected for it": lambda it: it.client.hset(it.keys.expected, it.good, 1),
    "the room that is expected adds up": lambda it: it.client.hincrby(it.keys.expected, "all", 1),
    "listed, and not there": lambda it: it.client.zadd(it.keys.live, {"0" * 26: 1}),
    "is succeeded, live True": lambda it: it.client.zadd(it.keys.live, {it.good: 1}),
    "is running, live False": lambda it: it.client.zrem(it.keys.live, it.live),
    "another instant than it was created": lambda it: it.client.zincrby(it.keys.live, 1, it.live),
    "listed as ended before it did": lambda it: it.client.zincrby(it.keys.ended, -5, it.good),
    "retry:1:1: not set": lambda it: it.client.zrem(it.keys.timers, f"{it.live} retry:1:1"),
    "grace: not set": lambda it: it.client.zrem(it.keys.timers, f"{it.stopping} grace"),
    "nothing waits for it (its run lives)": lambda it: it.client.zadd(it.keys.timers, {f"{it.live} retry:0:1": 1}),
    "its run does not live)": lambda it: it.client.zadd(it.keys.timers, {f"{it.good} deadline": 1}),
    "accepted, and expires": lambda it: it.client.expire(it.keys.blob(f"{SHARD}.{it.good}.0.1.1"), 1000),
    "not accepted, and expires in -1": lambda it: it.client.set(it.keys.blob(f"{SHARD}.{it.good}.1.1.1"), "x"),
    "cannot be read": lambda it: it.record(it.live, 0, "|", "!"),
    "pages": lambda it: it.client.delete(it.keys.spec(it.live)),
    "nodes that it does not have": lambda it: it.client.hset(it.keys.nodes(it.live, 0), 77, "P|1|0|0|0||"),
    "does not belong there": lambda it: it.client.hset(it.keys.nodes(it.live, 0), 177, "P|1|0|0|0||"),
    "has the state": lambda it: it.client.hset(it.keys.run(it.live), "state", "asleep"),
    "tries on the timeline": lambda it: it.record(it.good, 1, "S|1|1", "S|1|2"),
    "do not say how they ended": lambda it: it.record(it.good, 1, "succeeded", "failed"),
    "counts other failures": lambda it: it.record(it.good, 1, "S|1|1|0", "S|1|1|1"),
    "has output ''": lambda it: it.record(it.good, 1, "echo|i", "echo|"),
    "and its value is None": lambda it: it.client.hdel(it.keys.values(it.good, 0), 0),
    "failed, and its error is": lambda it: it.client.hset(it.keys.values(it.bad, 0), 1, "{}"),
    "and has a value": lambda it: it.client.hset(it.keys.values(it.bad, 0), 3, "1"),
    "a value without a record": lambda it: it.client.hset(it.keys.values(it.live, 0), 3, "1"),
    "began, but its rule says WAIT": lambda it: it.client.hset(
        it.keys.nodes(it.live, 0), 3, "S|1|1|0|0|1,1,1,1,succeeded,x|n"
    ),
    "upstream_failed, but its rule says START": lambda it: it.record(it.good, 3, "S|1|1", "U|1|1"),
    "its records say": lambda it: it.client.hset(it.keys.run(it.good), "progress", '{"succeeded":3,"failed":1}'),
    "nodes are open": lambda it: it.client.hdel(it.keys.nodes(it.good, 0), 3),
    "ended_at_ms is None": lambda it: it.client.hdel(it.keys.run(it.good), "ended_at_ms"),
    "of its last nodes are not": lambda it: it.client.hset(it.keys.run(it.bad), "state", "succeeded"),
    "none of its last nodes is": lambda it: it.client.hset(it.keys.run(it.good), "state", "failed"),
    "without a reason": lambda it: it.client.hdel(it.keys.run(it.good), "reason"),
    "its log says": lambda it: add_log(it, it.good, [-1, "failed", 0, -1, ""]),
    "unknown moves": lambda it: add_log(it, it.live, [0, "vanish", 1, -1, ""]),
    "the log ends it as": lambda it: add_log(it, it.good, [0, "fail", 1, -1, ""]),
    "the log says cancel": lambda it: add_log(it, it.live, [3, "cancel", 1, -1, ""]),
    "the log sends it 2 times": lambda it: add_log(it, it.live, [2, "dispatch", 1, -1, ""]),
}


def add_log(it: Planted, run: RunId, line: list[Any]) -> None:
    """One more line in a run's log."""
    it.client.xadd(it.keys.log(run), {"moves": json.dumps([line])})


def test_every_kind_of_damage_is_found(planted: Planted, stage: Stage) -> None:
    """Each is planted alone into the same sound store, and told for what it is."""
    sound = {key: stage.client.dump(key) for key in stage.client.scan_iter()}
    missed = []
    for says, damage in DAMAGE.items():
        stage.client.flushall()
        with stage.client.pipeline() as pipe:
            for key, value in sound.items():
                pipe.restore(key, 0, value)
            pipe.execute()
        damage(planted)
        found = planted.found()
        if not any(says in problem for problem in found):
            missed.append((says, found))
    assert not missed
