"""One thread in a worker's main process: renew the leases of all attempts here, and say that the worker lives.

Every beat renews, in one call per shard, what this worker runs or has waiting, and announces the worker.
An attempt that answers "gone" (it ended elsewhere, or was cancelled) is stopped when it is truly running
in a pool process; threads cannot be stopped, and their late report will be refused.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from celery.worker import state

from ..store.attempts import Attempts
from ..store.health import look
from ..wire import BUNDLE, BUNDLES, AttemptId, carried
from .broker import noted, taken
from .bundle import steps_here
from .endings import lost
from .installation import Installation, claimant
from .report import tell
from .survival import ABANDONED, refused

log = logging.getLogger(__name__)
FILE = "CELERIAC_HEARTBEAT_FILE"
KILL_AFTER_BEATS = 2
PUBLISH_SECONDS = 24 * 3600.0
"""How often contracts are confirmed: those of which nobody has heard for a month are forgotten."""
NOBODY = "-"
POOLS = {"celery.concurrency.thread": "threads"}
"""Celery's own words for its pools, where the module has another."""


class Heartbeat:
    """The heartbeat of one worker.

    Args:
        installation: the app's.
        consumer: Celery's consumer, once it is ready.
    """

    def __init__(self, installation: Installation, consumer: Any) -> None:
        self.installation = installation
        self.consumer = consumer
        self.hostname = str(consumer.hostname)
        self.interval = installation.interval()
        self.started_at_ms = round(time.time() * 1000)
        self.contracts: dict[str, dict[str, Any]] = {}
        self._publish_at = 0.0
        self._stop = threading.Event()
        self._gone: set[str] = set()
        self._stopping: dict[str, tuple[Any, int, float]] = {}
        self._attempts: Attempts | None = None
        self._silent = False
        self._look_wanted = True
        self._problems: set[str] = set()
        self._abandoned: list[str] = []
        self._announced = False
        self._thread = threading.Thread(target=self._run, name="celeriac-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat; the first beat is at once."""
        self._thread.start()

    def stop(self, *, forget: bool = True) -> None:
        """Stop beating and say that the worker has gone."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join(1.0)
        if forget:
            try:
                self._store().forget_worker(self.hostname)
            except Exception:  # Redis is away; the announcement grows old by itself
                log.debug("the worker could not be taken off the list", exc_info=True)

    def _store(self) -> Attempts:
        if self._attempts is None:
            self._attempts = self.installation.open()
        return self._attempts

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._silent:
                    self._look_wanted = True
                self.beat()
                if self._look_wanted:
                    self._look()
                taken()
                if self._silent:
                    self._silent = False
                    log.warning("Redis answers again; leases are renewed")
            except Exception as trouble:  # noqa: BLE001  an outage, whatever its form: the thread must live
                if not noted(trouble) and not self._silent:
                    log.warning("leases could not be renewed; trying again every beat: %r", trouble)
                self._silent = True
            self._stop.wait(min(self.interval, 1.0) if self._silent else self.interval)

    def _look(self) -> None:
        """Warn of a Redis that may lose what it acknowledged: at the start, and when it was away."""
        self._look_wanted = False
        try:
            health = look(self._store().client)
            found, unsafe = health.problems(), health.unsafe()
        except Exception:  # a user who may not ask; doctor and the scheduler tell too
            log.debug("the store's configuration cannot be looked at", exc_info=True)
            return
        for problem, remedy in found:
            if problem not in self._problems:
                log.warning("%s: %s. %s", "UNSAFE STORE" if (problem, remedy) in unsafe else "store", problem, remedy)
        self._problems = {problem for problem, _ in found}

    def beat(self) -> None:
        """Renew, stop what is gone, announce."""
        store = self._store()
        requests = _active()
        active = {id_ for it in requests for id_ in (*_attempts(it), *self._steps(it))}.union(steps_here())
        waiting = [id_ for it in list(state.requests.values()) for id_ in _attempts(it) if id_ not in active]
        gone: set[str] = set()
        if active:
            answers = store.renew(sorted(active), claimant(self.hostname))
            gone = {id_ for id_ in map(self._at, requests) if not answers.get(id_, True)}
        if waiting:  # under nobody's name: a claim that an earlier delivery left behind must run out
            store.renew(waiting, NOBODY)
        for id_ in gone & self._gone:  # twice, so it is not one whose end is on its way through the pool's pipe
            self._soon(id_)
        self._gone = gone
        self._kill_stubborn()
        self._publish(store)
        if store.announce_worker(self.hostname, self.describe()) and self._announced:
            log.warning("Redis had forgotten this worker; its executors are published again")
            self._publish_at = 0.0
            self._publish(store)
        self._announced = True
        path = os.environ.get(FILE)
        if path:
            Path(path).touch()

    def _publish(self, store: Attempts) -> None:
        """Make our executors known, once a day, and anew when Redis has lost them."""
        if time.monotonic() >= self._publish_at:
            store.publish_contracts(self.contracts, again=bool(self._publish_at))
            self._publish_at = time.monotonic() + PUBLISH_SECONDS

    def describe(self) -> dict[str, Any]:
        """What is announced of this worker."""
        consumer = self.consumer
        pool = consumer.pool
        return {
            "queue_class": self.installation.class_name(),
            "queues": sorted(str(name) for name in consumer.app.amqp.queues.consume_from),
            "pool": POOLS.get(type(pool).__module__, type(pool).__module__.rsplit(".", 1)[-1]),
            "concurrency": getattr(pool, "limit", None),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started_at_ms": self.started_at_ms,
            "heartbeat_seconds": self.interval,
            "refused": dict(self._refused()),
            "bundles": [BUNDLES],
        }

    def _refused(self) -> Counter[str]:
        progress = self.installation.progress
        return Counter(refused) + (progress.refused() if progress is not None else Counter())

    def note_abandoned(self) -> None:
        """A cold shutdown has begun: remember what is here, for Celery is about to forget it."""
        requests = list(state.requests.values())
        self._abandoned = [id_ for it in requests for id_ in (*_attempts(it), *self._steps(it))]

    def tell_abandoned(self) -> None:
        """Report what a cold shutdown ends without Celery's knowing: it began, but word of that had not come yet.

        Attempts that were only waiting go back to the broker unharmed. Threads are waited for, so they are no matter.
        """
        if not self._abandoned or not _stoppable(self.consumer.pool):
            return
        mine = f"|{claimant(self.hostname)}".encode()
        try:
            store = self._store()
            for id_ in self._abandoned:
                attempt = AttemptId.parse(id_)
                found = attempt and store.client.hget(store.keys.shard(attempt.shard).attempts, id_)
                if found and found.startswith(b"c|") and found.endswith(mine):
                    tell(self.installation, id_, lost("WorkerShutdown", ABANDONED))
        except Exception:  # Redis is away; the leases run out
            log.debug("what the shutdown left could not be told", exc_info=True)

    def _at(self, request: Any) -> str:
        """The attempt of a request that runs: of several in one message the others are done, or have not begun."""
        progress = self.installation.progress
        if request.name != BUNDLE or progress is None:
            return str(request.id)
        return progress.running(request.worker_pid) or ""

    def _steps(self, request: Any) -> list[str]:
        """The attempt that a bundle is at: the next step of a chain does not stand in its header."""
        at = self._at(request) if request.name == BUNDLE else ""
        return [at] if AttemptId.parse(at) is not None else []

    def _soon(self, id_: str) -> None:
        """Have an attempt stopped by the main thread, where no result can arrive between look and act."""
        if id_ in self._stopping or not _stoppable(self.consumer.pool):
            return
        hub = self.consumer.hub
        if hub is not None:
            hub.call_soon(self._terminate, id_)
        else:
            self._terminate(id_)

    def _terminate(self, id_: str) -> None:
        request = next((it for it in _active() if it.worker_pid and self._at(it) == id_), None)
        if request is None:
            return
        job = request._apply_result() if request._apply_result is not None else None
        if job is None or job.ready():
            return
        log.warning("attempt %s is no longer ours: its process is stopped", id_)
        courier = self.installation.courier
        if courier is not None:
            courier.suppress(id_)
        self._stopping[id_] = (job, request.worker_pid, time.monotonic() + KILL_AFTER_BEATS * self.interval)
        request.terminate(self.consumer.pool, signal="TERM")

    def _kill_stubborn(self) -> None:
        """SIGKILL for a process that did not heed SIGTERM and is still at the same work."""
        for id_, (job, pid, until) in list(self._stopping.items()):
            if job.ready():
                del self._stopping[id_]
            elif time.monotonic() > until:
                del self._stopping[id_]
                workers = getattr(self.consumer.pool._pool, "_pool", ())
                if any(it.pid == pid and it._job_terminated for it in list(workers) if hasattr(it, "_job_terminated")):
                    os.kill(pid, signal.SIGKILL)


def _active() -> tuple[Any, ...]:
    """Requests that the pool has accepted. `state.requests` is no help: of two deliveries of an id it knows one."""
    while True:
        try:
            return tuple(state.active_requests)
        except RuntimeError:  # changed by the main thread meanwhile
            continue


def _attempts(request: Any) -> list[str]:
    """The attempts that came with a request of Celery's."""
    return carried(request.id, request.request_dict.get("celeriac"))


def _stoppable(pool: Any) -> bool:
    return type(pool).__module__ == "celery.concurrency.prefork"
