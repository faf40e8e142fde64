"""What an executor may know about the attempt that it runs, and what the worker remembers of it meanwhile.

`attempt()` gives the facts; the task's arguments stay its own. The state of a running attempt lives in
a context variable of the thread that runs it, so pools of any kind find their own and no other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery.exceptions import SoftTimeLimitExceeded

from ..wire import AttemptId
from .secrets import NO_SECRETS, Resolved

if TYPE_CHECKING:
    from .bundle import Bundle
    from .installation import Installation

log = logging.getLogger(__name__)
BEATS = 4
"""Of an executor, within the time that it may be silent for; it may call more often, and nothing is sent then."""


@dataclass(frozen=True, slots=True)
class Context:
    """The attempt that is running, as its executor sees it.

    Attributes:
        id: the attempt id, which is also the Celery task id.
        run: the run's id.
        node: the node's key in the graph (its number, when the message came without our header).
        number: which try of the node this is, from 1. Grows with every attempt: the fencing token for side effects.
        key: idempotency key, the same for every attempt of this node and epoch.
        worker: name of the worker.
        deadline_at_ms: instant at which the run must have ended, or None.
        hard_end_at_ms: instant at which this attempt counts as lost even if it is still running, or None.
        correlation_id: what the client gave the run, or None.
        traceparent: W3C trace context of the run, or None.
        labels: the node's labels.
    """

    id: str = ""
    run: str = ""
    node: str = ""
    number: int = 1
    key: str = ""
    worker: str = ""
    deadline_at_ms: int | None = None
    hard_end_at_ms: int | None = None
    correlation_id: str | None = None
    traceparent: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    _held: Held | None = field(default=None, repr=False, compare=False)

    def heartbeat(self) -> bool:
        """Say that this attempt goes on; whether it is still wanted.

        A node with `Timing(silence=...)` fails as a timeout when its executor does not call this for so long. False
        says that the attempt is over (cancelled, out of time, taken for lost): what it still does counts for nothing,
        so clean up and return. Any node's executor may ask. Call it as often as you like, from any thread: few calls
        go to Redis, one in a quarter of the silence, or in one of the worker's own heartbeats without such a limit.
        """
        return self._held is None or self._held.heartbeat()


class Held:
    """A running attempt, from its claim to its report; `request` is Celery's Context of this run."""

    __slots__ = (
        "beat_at",
        "began",
        "bundle",
        "claimed_at_ms",
        "hard_end_ms",
        "id",
        "installation",
        "lease_ms",
        "parsed",
        "replaced",
        "request",
        "retry_after_ms",
        "secrets",
        "settled",
        "silence",
        "task",
        "token",
        "wanted",
        "worker",
    )

    def __init__(
        self, installation: Installation, task: Any, request: Any, id_: str, parsed: AttemptId, token: str, worker: str
    ) -> None:
        self.installation = installation
        self.task = task
        self.request = request
        self.id = id_
        self.parsed = parsed
        self.token = token
        self.worker = worker
        self.claimed_at_ms = 0
        self.hard_end_ms = 0
        self.lease_ms = 0
        self.settled = False
        """Reported, or given up for good: nothing more is to be said about it."""
        self.replaced = False
        """The task replaced itself; another task will end the attempt."""
        self.retry_after_ms: int | None = None
        """The task called retry(), and asked for this wait."""
        self.secrets = NO_SECRETS
        """What its arguments hold and nothing else may show."""
        self.silence: tuple[int, int] | None = None
        """How long its executor may say nothing, and its time limit, ms."""
        self.beat_at = 0.0
        """When its executor is heard again: what it says before is not passed on."""
        self.wanted = True
        self.began = 0.0
        """When its task was about to run, by time.perf_counter()."""
        self.bundle: Bundle | None = None
        """What it came with, when others came in the same message."""

    def heartbeat(self) -> bool:
        """See Context.heartbeat. Without an answer of Redis what was true before holds."""
        if not self.wanted or time.monotonic() < self.beat_at:
            return self.wanted
        pause = self.installation.interval()
        self.beat_at = time.monotonic() + min(pause, self.silence[0] / 1000 / BEATS if self.silence else pause)
        try:
            self.wanted = self.installation.attempts_of_any_thread().beat(self.id, self.token, self.silence)
        except SoftTimeLimitExceeded:
            raise
        except Exception:  # an outage, whatever its form; the executor's work is none of its business
            log.debug("the heartbeat of attempt %s did not get through", self.id, exc_info=True)
        return self.wanted

    def context(self) -> Context:
        """The facts for the executor."""
        parsed = self.parsed
        found = self.request.get("celeriac")
        header: Mapping[str, Any] = found if isinstance(found, dict) else {}
        labels = header.get("labels")
        return Context(
            id=self.id,
            run=parsed.run,
            node=str(header.get("node", parsed.node)),
            number=parsed.attempt,
            key=str(header.get("key") or f"{parsed.run}.{parsed.node}.{parsed.epoch}"),
            worker=self.worker,
            deadline_at_ms=header.get("deadline_at_ms"),
            hard_end_at_ms=self.hard_end_ms or None,
            correlation_id=header.get("correlation_id"),
            traceparent=self.request.get("traceparent"),
            labels=labels if isinstance(labels, dict) else {},
            _held=self,
        )


HELD: ContextVar[Held | None] = ContextVar("celeriac_held", default=None)
BUNDLED: ContextVar[Bundle | None] = ContextVar("celeriac_bundled", default=None)
"""What this thread runs, when it came as several attempts in one message."""
_GIVEN: ContextVar[Context | None] = ContextVar("celeriac_given", default=None)


def held(task_id: object) -> Held | None:
    """The attempt that this thread is running, if it is `task_id`; None when it runs elsewhere or not at all."""
    it = HELD.get()
    return it if it is not None and it.id == task_id else None


def secrets_here() -> Resolved | None:
    """The secrets of the attempt that runs here, or None."""
    it = HELD.get()
    return None if it is None or it.secrets is NO_SECRETS else it.secrets


def attempt() -> Context | None:
    """The attempt that is running here, or None when this code was not started by the scheduler.

    Works anywhere below a task: in the task itself, in functions it calls, in asyncio tasks it starts.
    """
    it = HELD.get()
    return _GIVEN.get() if it is None else it.context()


@contextmanager
def given(context: Context) -> Iterator[None]:
    """An attempt without a worker: what runs inside finds these facts, as scheduler.testing runs executors."""
    token = _GIVEN.set(context)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def is_attempt(task_id: object) -> bool:
    """Whether a Celery task id is one of ours. Nothing else about a message is needed to know."""
    return isinstance(task_id, str) and AttemptId.parse(task_id) is not None
