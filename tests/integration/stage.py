"""What the tests of store and loop stand on: settings with short leases, small graphs, schedulers in threads.

Nothing here is mocked: runs are submitted, decided and read as in production, only sooner.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from scheduler.core.run import Run
from scheduler.core.states import ENDED_RUNS, NodeState
from scheduler.graph import Graph
from scheduler.service.loop import Scheduler
from scheduler.service.transport import Transport
from scheduler.settings import Settings
from scheduler.store.attempts import Attempts
from scheduler.store.connection import connect
from scheduler.store.keys import Keys
from scheduler.store.runs import Runs, connect_runs
from scheduler.wire import AttemptId, RunId, new_run_id
from tests import waiting
from tests.integration.invariants import check

GENEROUS_SECONDS = 20.0
T = TypeVar("T")
eventually = waiting.eventually


def settings_for(
    url: str,
    *,
    namespace: str = "cel",
    shards: int = 4,
    shard_lease_seconds: float = 1.0,
    broker_url: str | None = None,
    retention: Mapping[str, Any] | None = None,
    **classes: Mapping[str, Any],
) -> Settings:
    """Settings for one Redis. `classes` changes fields of queue classes: standard_low={"window": 3}.

    `retention` holds settings of ended runs, such as {"retention_seconds": 0, "archive_url": "none"}.
    """
    settings = Settings.load(
        redis_url=url,
        namespace=namespace,
        shards=shards,
        shard_lease_seconds=shard_lease_seconds,
        broker_url=broker_url,
        **(retention or {}),
    )
    for name, changes in classes.items():
        found = settings.classes[name.replace("_", "-")]
        settings.classes[found.name] = found.model_copy(update=dict(changes))
    return settings


class Stage:
    """One installation in one Redis: its store, and the schedulers that a test starts in it."""

    def __init__(self, url: str, namespace: str = "cel", shards: int = 4) -> None:
        self.url, self.namespace, self.shards = url, namespace, shards
        self.client: Any = connect(url)
        self.runs: Runs = connect_runs(self.client, namespace, shards)
        self.attempts = Attempts(self.client, namespace)
        self.keys: Keys = self.runs.keys
        self.last = 0

    def settings(self, **changes: Any) -> Settings:
        """Settings for this installation; see settings_for."""
        return settings_for(self.url, namespace=self.namespace, shards=self.shards, **changes)

    def publish(self, *executors: str, queue_class: str | None = None, **contract: Any) -> None:
        """Make executors known, as a worker does at its start."""
        self.attempts.publish_contracts(
            {name: {"v": 1, "name": name, "queue_class": queue_class, **contract} for name in executors}
        )

    def submit(self, graph: Graph, *, shard: int | None = None, **facts: Any) -> RunId:
        """A run of the graph, in a shard of the test's choice."""
        run = self.new_id(shard)
        assert self.runs.submit(run, graph.compile(), facts)[0]
        return run

    def new_id(self, shard: int | None = None) -> RunId:
        """A run id that no other has; ids of one stage sort in the order they were made."""
        while True:
            self.last = max(self.last + 1, time.time_ns() // 1_000_000)
            run = new_run_id(self.last)
            if shard is None or self.runs.shard(run) == shard:
                return run

    def attempt(self, run: RunId, node: int = 0, attempt: int = 1) -> str:
        """The id of an attempt."""
        return str(AttemptId(self.runs.shard(run), run, node, 1, attempt))

    def load(self, run: RunId) -> Run:
        """The run as the store has it."""
        return self.runs.load(run)

    def states(self, run: RunId) -> dict[str, str]:
        """Node key -> word of its state, as recorded."""
        loaded = self.runs.load(run)
        return {key: NodeState(state).word for key, state in zip(loaded.keys, loaded.state, strict=True)}

    def moves(self, run: RunId) -> list[list[Any]]:
        """Every line of the run's log."""
        return [move for _, moves in self.runs.log(run, count=100_000) for move in moves]

    def words(self, run: RunId, node: int) -> list[str]:
        """The moves of one node, in order."""
        return [word for it, word, *_ in self.moves(run) if it == node]

    def ended(self, *runs: RunId, seconds: float = GENEROUS_SECONDS) -> list[str]:
        """Wait until runs have ended and nothing of them is left to do; returns their states."""
        eventually(
            lambda: all(it is not None and it.state in ENDED_RUNS for it in self.runs.summaries(runs)),
            "the end of the runs",
            seconds,
        )
        eventually(self.quiet, "quiet", seconds)
        return [self.runs.summary(run).state.value for run in runs]

    def quiet(self) -> bool:
        """Whether no run lives, no event waits and no attempt is in flight."""
        for shard in range(self.runs.shards):
            keys = self.keys.shard(shard)
            if any((self.client.xlen(keys.inbox), self.client.zcard(keys.live), self.client.hlen(keys.attempts))):
                return False
        return True

    def in_flight(self) -> dict[str, str]:
        """Attempt id -> state, of all shards."""
        with self.client.pipeline(transaction=True) as pipe:  # at one instant
            for shard in range(self.runs.shards):
                pipe.hgetall(self.keys.shard(shard).attempts)
            return {id_.decode(): state.decode() for states in pipe.execute() for id_, state in states.items()}

    def flying_by_class(self) -> Counter[str]:
        """Queue class -> attempts in flight."""
        return Counter(state.split("|")[1] for state in self.in_flight().values())

    def lease_ends(self, *attempts: str) -> None:
        """As if the time had passed: the leases of these attempts have run out."""
        for id_ in attempts:
            parsed = AttemptId.parse(id_)
            assert parsed is not None
            assert self.client.zadd(self.keys.shard(parsed.shard).leases, {id_: 1}, xx=True, ch=True) == 1

    def owners_vanish(self) -> None:
        """As if the time had passed: whoever owns shards has not renewed, so all of them are free."""
        for shard, line in self.client.hgetall(self.keys.owners).items():
            epoch, _, owner = line.decode().split("|", 2)
            self.client.hset(self.keys.owners, shard, f"{epoch}|1|{owner}")
        self.client.delete(self.keys.schedulers)

    @contextmanager
    def scheduler(
        self, transport: Transport | None = None, *, stumbles: bool = False, **changes: Any
    ) -> Iterator[Scheduler]:
        """A scheduler at work in a thread until the block ends. It must end cleanly; whether it may stumble is said."""
        scheduler = Scheduler(self.settings(**changes), transport)
        thread = threading.Thread(target=scheduler.run, name=f"scheduler {scheduler.name}", daemon=True)
        thread.start()
        try:
            yield scheduler
        finally:
            self.end(scheduler, thread)
        assert stumbles or not scheduler.counts["crashes"], "the loop stumbled; see the log"

    def end(self, scheduler: Scheduler, thread: threading.Thread) -> None:
        """Stop a scheduler at once: its blocked read is let go."""
        scheduler.stop()

        def over() -> bool:
            self.unblock()
            thread.join(0.02)
            return not thread.is_alive()

        eventually(over, "the scheduler's end")

    def unblock(self) -> None:
        """Let blocked readers of this Redis go on."""
        for it in self.client.client_list():
            if "b" in it["flags"]:
                self.client.client_unblock(int(it["id"]))


def idle(stage: Stage) -> None:
    """All of Redis is as it must be when nothing is left to do."""
    check(stage.client, stage.namespace, idle=True)


def dump(client: Any) -> dict[bytes, bytes]:
    """All of Redis: key -> what it holds, serialized."""
    return {key: client.dump(key) for key in sorted(client.scan_iter(count=1000))}


def owned(client: Any, namespace: str = "cel") -> dict[int, str]:
    """Shard -> the scheduler that the table of owners names; free shards are left out."""
    found: dict[int, str] = {}
    for shard, line in client.hgetall(Keys(namespace).owners).items():
        _epoch, _end, owner = line.decode().split("|", 2)
        if owner:
            found[int(shard)] = owner
    return found


def diamond(name: str = "diamond", **options: Any) -> Graph:
    """Node a before b and c, d after both; every node runs `echo` and hands its inputs on."""
    graph = Graph(name, **options)
    a = graph.add("echo", key="a", value=1)
    b = graph.add("echo", key="b", value=a.out.value)
    c = graph.add("echo", key="c", value=a)
    graph.add("echo", key="d", left=b, right=c.out.value.value)
    return graph


def layers(width: int, depth: int = 1, executor: str = "echo") -> Graph:
    """`depth` layers of `width` nodes, each after all of the layer before."""
    graph = Graph("layers")
    before: Iterable[Any] = ()
    for _ in range(depth):
        before = [graph.add(executor, after=list(before)) for _ in range(width)]
    return graph
