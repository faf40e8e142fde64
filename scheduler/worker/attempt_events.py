"""Celery's own events of attempts that came several in one message, so that Flower and other listeners see each.

Celery sends events of the message. Here each attempt inside gets those that it would have alone: task-received and
task-started as its turn comes, then task-succeeded, -failed, -retried or -rejected (it goes back). Asked for by
CELERIAC_ATTEMPT_EVENTS or install(attempt_events=True), and sent only while the worker's own task events are on, at its
start (-E) or later (Flower switches them on): the main process notes with every bundle how they stand, in memory that
pool processes share.

An attempt only lays its events down. A thread of its process sends them, over a connection of its own, in groups, at
the latest GATHER_SECONDS later. While the broker is away they are dropped: nothing may wait for, or fail by, what is
for the eye.
"""

from __future__ import annotations

import logging
import mmap
import os
import threading
import time
from collections import deque
from typing import Any

from celery import signals

from ..wire import BUNDLE, Report
from .endings import GIVEN_BACK, Ending
from .installation import Installation

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.02
"""So long at most an event waits for others."""
MOST_WAITING = 10_000
"""Events of one process that wait to be sent; more are dropped."""
MOST_TOGETHER = 500
"""Events in one message."""
SILENCE_SECONDS = 3.0
"""How long the broker may stay without an answer."""
PAUSE_SECONDS = 5.0
"""After it was away, until it is tried again."""
GOODBYE_SECONDS = 0.5
"""What the end of a process may be put off by."""
MOST_CHARACTERS = 1024
"""Of an exception's text; Celery's own measure for results."""
MOST_TRACEBACK = 2_000
_UID = "celeriac-attempt-events"
_BOUNDED = {
    "redis": {"socket_timeout": SILENCE_SECONDS, "socket_connect_timeout": SILENCE_SECONDS},
    "amqp": {"read_timeout": SILENCE_SECONDS, "write_timeout": SILENCE_SECONDS},
}
"""Kind of a broker -> options of its transport that keep a call from lasting for ever."""


class Unheard:
    """What one bundle tells of its attempts while nobody wants to know: nothing.

    Attributes:
        hears: somebody wants to know.
    """

    hears = False

    def begins(self, entry: dict[str, Any]) -> None:
        """The turn of an attempt has come."""

    def reported(self, report: Report) -> None:
        """An attempt has ended; said again, the first time counts."""

    def returned(self, traced: Any) -> None:
        """Celery's tracer is through with it, and answered so; None when it was not asked."""

    def dies(self) -> None:
        """This process ends itself now."""


_UNHEARD = Unheard()


class Heard(Unheard):
    """What one bundle tells of its attempts, one after another."""

    hears = True

    def __init__(self, events: AttemptEvents, sender: _Sender) -> None:
        self._events = events
        self._tell = sender.tell
        self._sender = sender
        self._open = ""
        """The attempt of which an event of its end is still to be sent."""

    def begins(self, entry: dict[str, Any]) -> None:
        """task-received and task-started, with what the headers of a lone message show (publisher.py)."""
        id_, name = str(entry["id"]), str(entry["task"])
        if not getattr(self._events.app._tasks.get(name), "send_events", True):
            return
        self._open = id_
        _, run, number, _, attempt = id_.split(".")
        node = str(entry["celeriac"].get("node", number))
        shown = f"{{'run': '{run}', 'node': {node!r}, 'attempt': {attempt}{self._events.of_class}}}"
        self._tell(
            "task-received",
            uuid=id_,
            name=name,
            args=f"run={run} node={node} attempt={attempt}",
            kwargs=shown,
            root_id=run,
            parent_id=run,
            retries=0,
            eta=None,
            expires=None,
        )
        self._tell("task-started", uuid=id_)

    def reported(self, report: Report) -> None:
        """How it ended, unless it succeeded: Celery's tracer has yet to say with what, and how long it took."""
        if report.id == self._open and report.end != "succeeded":
            self._open = ""
            _end(self._sender, report.id, report.end, report.error or {})

    def returned(self, traced: Any) -> None:
        """task-succeeded, if nothing else has been told of it."""
        id_, self._open = self._open, ""
        if id_ and traced is not None and traced.info is None:
            self._tell("task-succeeded", uuid=id_, result=traced.retstr, runtime=traced.runtime)

    def dies(self) -> None:
        """What has been laid down leaves; the main process, which sees only a dead process, adds nothing."""
        self._events.note_last_words()
        self._sender.flush(GOODBYE_SECONDS)


class AttemptEvents:
    """The events of one worker. Made in its main process before the pool starts; pool processes inherit it.

    Args:
        app: the Celery app.
        class_name: the queue class that it serves, if it was told one.
    """

    def __init__(self, app: Any, class_name: str | None) -> None:
        self.app = app
        self.of_class = f", 'class': '{class_name}'" if class_name else ""
        self._shared = mmap.mmap(-1, 1 + 8)
        """Whether events are on; then the pid of the process that has told of its own end."""
        self._gone = ""
        """The attempt whose end the main process has told of last: Celery may tell it twice."""
        self._process: tuple[int, _Sender] | None = None
        self._making = threading.Lock()
        os.register_at_fork(after_in_child=self._after_fork)
        signals.task_received.connect(self._look, weak=False, dispatch_uid=_UID)
        for ends in (signals.worker_process_shutdown, signals.worker_shutdown):
            ends.connect(self._goodbye, weak=False, dispatch_uid=_UID)

    def sender(self, hostname: str) -> _Sender | None:
        """What sends in this process; None while events are off."""
        if not self._shared[0]:
            return None
        with self._making:
            if self._process is None or self._process[0] != os.getpid():
                self._process = os.getpid(), _Sender(self.app, hostname)
            return self._process[1]

    def note_last_words(self) -> None:
        """This process has told of the attempt that it takes with it."""
        self._shared[1:9] = os.getpid().to_bytes(8, "little")

    def is_new(self, pid: int | None, id_: str) -> bool:
        """Whether the end of an attempt that a process took with it has not been told of, by that process or here."""
        if int.from_bytes(self._shared[1:9], "little") == pid or self._gone == id_:
            return False
        self._gone = id_
        return True

    def _after_fork(self) -> None:
        self._making = threading.Lock()

    def _look(self, sender: Any, request: Any, **_: Any) -> None:
        """Celery signal task_received, in the main process."""
        if request.name == BUNDLE:
            found = sender.event_dispatcher
            self._shared[0] = bool(found and found.enabled and (not found.groups or "task" in found.groups))

    def _goodbye(self, **_: Any) -> None:
        """Celery signals: this process ends."""
        if self._process is not None and self._process[0] == os.getpid():
            self._process[1].flush(GOODBYE_SECONDS)


def heard_by(installation: Installation, hostname: str) -> Unheard:
    """Where a bundle that begins tells of its attempts."""
    events = installation.events
    sender = None if events is None else events.sender(hostname)
    return _UNHEARD if events is None or sender is None else Heard(events, sender)


def gone(installation: Installation, hostname: str, pid: int | None, id_: str, what: Ending) -> None:
    """From the main process: what became of the attempt that a process was at when it died. Those behind it go back
    without having been told of.
    """
    events = installation.events
    sender = None if events is None else events.sender(hostname)
    if events is not None and sender is not None and events.is_new(pid, id_):
        _end(sender, id_, what.end, what.error)


def _end(sender: _Sender, id_: str, end: str, error: dict[str, Any]) -> None:
    """The event of an end without a result, from its error record, which shows no secret."""
    if error.get("type") == GIVEN_BACK:
        sender.tell("task-rejected", uuid=id_, requeue=True)
        return
    exception = f"{error.get('type')}({str(error.get('message', ''))[:MOST_CHARACTERS]!r})"
    traceback = str(error.get("traceback", ""))[-MOST_TRACEBACK:]
    sender.tell(
        "task-retried" if end == "retried" else "task-failed", uuid=id_, exception=exception, traceback=traceback
    )


class _Sender:
    """One thread in each process, and one connection to the broker."""

    def __init__(self, app: Any, hostname: str) -> None:
        self._app = app
        self._hostname = hostname
        self._waiting: deque[tuple[str, float, dict[str, Any]]] = deque()
        self._some, self._soon = threading.Event(), threading.Event()
        self._sent = threading.Condition()
        self._busy = False
        self._dispatcher: Any = None
        self._again_at = 0.0
        """Not before, by time.monotonic(), is a broker tried that did not answer; 0 while it does."""
        self._dropped = 0
        threading.Thread(target=self._run, name="celeriac-events", daemon=True).start()

    def tell(self, type_: str, **fields: Any) -> None:
        """Lay an event down; about a microsecond. Never waits, never raises."""
        if len(self._waiting) >= MOST_WAITING:
            self._dropped += 1
            return
        self._waiting.append((type_, time.time(), fields))
        if not self._some.is_set():
            self._some.set()

    def flush(self, seconds: float) -> None:
        """Wait until all is sent, or dropped, at most so long."""
        self._soon.set()
        with self._sent:
            self._sent.wait_for(lambda: not (self._waiting or self._busy), seconds)

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._soon.wait(GATHER_SECONDS)
            self._busy = True
            self._some.clear()
            self._soon.clear()
            while self._waiting:
                self._send([self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_TOGETHER))])
            with self._sent:
                self._busy = False
                self._sent.notify_all()

    def _send(self, batch: list[tuple[str, float, dict[str, Any]]]) -> None:
        if time.monotonic() < self._again_at:
            self._dropped += len(batch)
            return
        known = self._dispatcher is not None
        try:
            try:
                self._publish(batch)
            except Exception:  # the connection may have been closed while nothing was to be told
                if not known:
                    raise
                self._close()
                self._publish(batch)
        except Exception as trouble:  # noqa: BLE001  an outage, whatever its form
            self._close()
            self._dropped += len(batch)
            if not self._again_at:
                log.warning("events of attempts are dropped until the broker answers again: %r", trouble)
            self._again_at = time.monotonic() + PAUSE_SECONDS
            return
        self._again_at = 0.0
        if self._dropped:
            log.warning("events of attempts are sent again; %d were dropped", self._dropped)
            self._dropped = 0

    def _publish(self, batch: list[tuple[str, float, dict[str, Any]]]) -> None:
        if self._dispatcher is not None and not self._dispatcher.connection.connected:
            self._close()
        dispatcher = self._dispatcher = self._dispatcher or self._connect()
        for type_, at, fields in batch:
            dispatcher.send(type_, timestamp=at, **fields)
        dispatcher.flush(errors=False)

    def _connect(self) -> Any:
        kind = self._app.connection_for_write().transport.driver_type
        connection = self._app.connection_for_write(
            connect_timeout=SILENCE_SECONDS, transport_options=_BOUNDED.get(kind)
        )
        connection.connect()  # one try: what follows would try for ever
        return self._app.events.Dispatcher(
            connection,
            hostname=self._hostname,
            buffer_while_offline=False,
            buffer_group=["task"],
            buffer_limit=MOST_TOGETHER + 1,
        )

    def _close(self) -> None:
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            try:
                dispatcher.connection.release()
            except Exception:
                log.debug("the connection for events was closed with a fault", exc_info=True)
