"""A run whose scheduler is the test: the real parts decide, evolve and commit each move, when the test says so.

So a waiting client can be watched between any two moves, without a scheduler process and without timing.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from scheduler.core.decide import decide
from scheduler.core.events import Admitted, CancelRequested, DeadlinePassed, Event, Opened, Reported
from scheduler.core.evolve import evolve
from scheduler.core.states import NodeState
from scheduler.service.batch import Batch
from scheduler.store.attempts import Attempts
from scheduler.store.commits import send_commits
from scheduler.store.connection import connect
from scheduler.store.runs import connect_runs
from scheduler.store.scripts import FENCE
from scheduler.wire import RunId, error_record

WORKER = "w@here"


class Scripted:
    """The only writer of one run's shard.

    Attributes:
        run: the run as the scheduler would hold it.
    """

    def __init__(self, url: str, run: RunId, namespace: str = "cel") -> None:
        self.client: Any = connect(url)
        self.runs = connect_runs(self.client, namespace, 16)
        self.attempts = Attempts(self.client, namespace)
        self.shard = self.runs.shard(run)
        self.keys = self.runs.keys.shard(self.shard)
        self.epoch = 1  # the same for all runs of a shard: they have one writer, the test
        assert FENCE(self.client, [self.keys.epoch], [self.epoch]) == b"fenced"
        self.run = self.runs.load(run)
        self.id = run

    def close(self) -> None:
        """Ends the connection."""
        self.client.close()

    def node(self, key: str) -> int:
        """A node's number."""
        return self.run.keys.index(key)

    def attempt(self, key: str) -> str:
        """The id of a node's current attempt."""
        node = self.node(key)
        return f"{self.shard}.{self.id}.{node}.1.{self.run.attempt[node]}"

    def batch(self) -> Batch:
        """An empty batch, at Redis's time."""
        return Batch(self.keys, self.epoch, self.runs.now_ms())

    def commit(self, *batches: Batch) -> None:
        """Make batches durable."""
        assert send_commits(self.client, [batch.commit(0) for batch in batches]) == []

    def apply(self, event: Event, batch: Batch | None = None, attempt: str = "", output: bytes | None = None) -> Batch:
        """Decide an event and apply it; committed at once unless it joins a batch."""
        into = batch or self.batch()
        decision = decide(self.run, event, into.now)
        assert not decision.stale, event
        evolve(self.run, decision, into.now)
        into.take(self.run, decision, attempt, output)
        if batch is None:
            self.commit(into)
        return into

    def open(self, batch: Batch | None = None) -> None:
        """The run begins: nodes without upstream become ready."""
        self.apply(Opened(), batch)

    def send(self, *keys: str, batch: Batch | None = None) -> None:
        """Ready nodes go out to workers."""
        into = batch or self.batch()
        decision = decide(self.run, Admitted([self.node(key) for key in keys]), into.now)
        assert not decision.stale
        evolve(self.run, decision, into.now)
        for key in keys:
            sent = self.node(key), self.attempt(key), "s|standard-low|20000|3600000", into.now + 75_000, ""
            into.send(self.run, [sent])
        if batch is None:
            self.commit(into)

    def claim(self, key: str) -> None:
        """A worker begins a node."""
        [claim] = self.attempts.claim([self.attempt(key)], WORKER, "token")
        assert claim.verdict == "granted"

    def succeed(self, key: str, value: Any = None, *, batch: Batch | None = None) -> None:
        """A node ends well; sent first if it was not. `value` None means that it has no output."""
        raw = None if value is None else json.dumps(value).encode()
        self._report(key, "succeeded", "none" if raw is None else "inline", raw, None, batch)

    def succeed_large(self, key: str, value: Any) -> str:
        """A node ends well and its output is put aside; returns the blob's key."""
        data = json.dumps(value).encode()
        self._sent(key)
        blob = self.attempts.put_blob(self.attempt(key), data)
        known = {"blob": blob, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self._report(key, "succeeded", "blob", json.dumps(known).encode(), None, None)
        return blob

    def fail(self, key: str, message: str = "boom", *, kind: str = "permanent", traceback: str | None = None) -> None:
        """A node's attempt fails; for good unless `kind` may be tried again."""
        self._report(key, "failed", "none", None, error_record(kind, "ValueError", message, traceback=traceback), None)

    def cancel(self, reason: str) -> None:
        """The run is cancelled while nothing runs."""
        self.apply(CancelRequested(reason, frozenset()))

    def miss_deadline(self) -> None:
        """The run's deadline passes."""
        self.apply(DeadlinePassed())

    def _sent(self, key: str) -> None:
        if self.run.state[self.node(key)] == NodeState.READY:
            self.send(key)

    def _report(
        self,
        key: str,
        end: str,
        output: str,
        raw: bytes | None,
        error: dict[str, Any] | None,
        batch: Batch | None,
    ) -> None:
        if batch is None:
            self._sent(key)
        elif self.run.state[self.node(key)] == NodeState.READY:
            self.send(key, batch=batch)
        node, at = self.node(key), self.runs.now_ms()
        attempt = self.run.attempt[node]
        event = Reported(node, 1, attempt, end, output, WORKER, at, at, error, None, 0.5)
        self.apply(event, batch, self.attempt(key), raw)
