"""Guards that keep a worker alive: against malformed messages, a task that ran out of memory, a broker that was killed.

They act on any message, since a malformed one cannot be known as ours; a message that Celery can run
takes exactly Celery's way. What would have killed the worker (and the next one, for the message goes back)
becomes InvalidTaskError, which Celery rejects. Measured: research/reliability.md, table 1.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from celery.exceptions import InvalidTaskError, Reject, Terminated, TimeLimitExceeded, WorkerLostError
from celery.utils.imports import symbol_by_name
from celery.worker import state

from ..errors import WireError
from ..wire import BUNDLE, allowed, carried, check_reader, error_record
from .attempt_events import gone
from .claim import AttemptRefused
from .context import is_attempt
from .endings import Ending, ending, endings_of, lost, outside
from .entries import columns_of
from .installation import installation_of
from .options import EXECUTORS
from .pools import cannot_stop
from .report import tell

log = logging.getLogger(__name__)
NOT_ALLOWED = "ExecutorNotAllowed"
ABANDONED = "the worker stopped before the task had ended"
refused: dict[str, int] = {}
"""Claims refused in this worker since its start, by verdict, messages of tasks that its class does not take, and
rejected messages that became no dead letter ("passed over"); the heartbeat announces them."""
_counting = threading.Lock()
"""In a pool of threads, several may be refused at one time."""


def count_refused(counts: Mapping[str, int]) -> None:
    """Claims were refused in this process, by verdict."""
    with _counting:
        for verdict, count in counts.items():
            refused[verdict] = refused.get(verdict, 0) + count


def guard(task: Any) -> None:
    """Lay the guards around a task's Strategy; its Request follows when a worker starts the strategy."""
    if not isinstance(task.Strategy, _Strategy):
        type(task).Strategy = _Strategy(task.Strategy)


class _Strategy:
    """A task's own strategy behind a check of the message."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def __call__(self, task: Any, app: Any, consumer: Any, **options: Any) -> Any:
        request = symbol_by_name(task.Request)
        if not issubclass(request, _Guarded):
            type(task).Request = _guarded(request)
        strategy = symbol_by_name(self.own)(task, app, consumer, **options)
        if task.name != BUNDLE and not may_run(task.name):
            return _refusing(task.name, app, strategy)

        def receive(message: Any, body: Any, *args: Any, **kwargs: Any) -> Any:
            check(message, body)
            return strategy(message, body, *args, **kwargs)

        return receive


def may_run(name: str) -> bool:
    """Whether this worker was started for a class that takes this task."""
    patterns = os.environ.get(EXECUTORS)
    return not patterns or allowed(name, patterns.split(","))


def _refusing(name: str, app: Any, strategy: Any) -> Any:
    """What receives messages of a task that has no business in this worker's class: rejects and counts them.

    A worker that also serves queues of its app's own takes ordinary messages from there as ever.
    """
    served = os.environ.get("CELERIAC_QUEUE_CLASS") or "?"

    def receive(message: Any, body: Any, *args: Any, **kwargs: Any) -> Any:
        id_ = message.headers.get("id") if isinstance(message.headers, dict) else None
        if not is_attempt(id_) and len(app.amqp.queues.consume_from) > 1:
            return strategy(message, body, *args, **kwargs)
        refused["not allowed"] = refused.get("not allowed", 0) + 1
        told = f"task {name!r} may not run in the queue class {served!r} (executors, queues.toml)"
        installation = installation_of(app)
        if installation is not None and is_attempt(id_):
            tell(
                installation,
                str(id_),
                Ending("failed", error_record("permanent", NOT_ALLOWED, told, origin="policy", phase="route")),
            )
        raise InvalidTaskError(told)

    return receive


def check(message: Any, body: Any) -> None:
    """Whether Celery can make a request of this message without dying of it.

    Raises:
        InvalidTaskError: it cannot.
        DecodeError, ContentDisallowed: the body cannot be read, or may not be.
    """
    if body is not None:  # protocol 1: decoded by the consumer, and what would be headers stands in it
        if isinstance(body, dict):
            _check_fields({"id": None, **body})
        return
    headers = message.headers
    id_ = _check_fields(headers)
    payload = _payload(message)
    if isinstance(payload, dict):
        _check_call(payload.get("args", ()), payload.get("kwargs", {}))
        return
    if not isinstance(payload, list | tuple) or len(payload) != 3:
        raise InvalidTaskError("body: expected [args, kwargs, embed]")
    args, kwargs, embed = payload
    if embed is not None and not isinstance(embed, dict):
        raise InvalidTaskError("body: expected [args, kwargs, embed] with a mapping as embed")
    _check_call(args, kwargs)
    ids = carried(id_, headers.get("celeriac"))
    if ids:
        _check_header(headers.get("celeriac"))
    if headers.get("task") == BUNDLE:
        _check_bundle(args, ids)
    if is_attempt(id_) and not (isinstance(args, list | tuple) and isinstance(kwargs, dict)):
        raise InvalidTaskError("body: expected [args, kwargs, embed] with a list as args and a mapping as kwargs")


def _check_fields(headers: dict[str, Any]) -> str | int | None:
    """What a message says of itself, beside its body; returns its id."""
    id_ = headers.get("id", headers)
    if id_ is not None and not isinstance(id_, str | int):
        raise InvalidTaskError(f"header id: {'missing' if id_ is headers else repr(id_)}, expected text")
    limits = headers.get("timelimit")
    if limits is not None and not (
        isinstance(limits, list | tuple)
        and len(limits) in (0, 2)
        and all(it is None or (isinstance(it, int | float) and it >= 0) for it in limits)
    ):
        raise InvalidTaskError(f"header timelimit: {limits!r}, expected [hard, soft], seconds or null")
    stamped = headers.get("stamped_headers")
    if stamped is not None and not (isinstance(stamped, list | tuple) and all(isinstance(it, str) for it in stamped)):
        raise InvalidTaskError(f"header stamped_headers: {stamped!r:.200}, expected a list of names or null")
    if not isinstance(headers.get("stamps") or {}, dict):
        raise InvalidTaskError(f"header stamps: {headers['stamps']!r:.200}, expected a mapping or null")
    return id_


def _payload(message: Any) -> Any:
    """The decoded body. A content type or encoding that is no text leads astray before anything is decoded."""
    try:
        return message.payload
    except (TypeError, AttributeError, LookupError) as problem:
        raise InvalidTaskError(f"body: {type(problem).__name__}: {problem}") from problem


def _check_call(args: Any, kwargs: Any) -> None:
    """No task can be called with anything else. Celery finds that out where the task runs, and tells nobody."""
    if not (isinstance(args, Iterable) and isinstance(kwargs, Mapping)):
        raise InvalidTaskError("body: expected args that are a list, and kwargs that are a mapping")


def _check_bundle(args: Any, ids: list[str]) -> None:
    """The attempts of a bundle are those of its header, and each can be called."""
    if not isinstance(args, list | tuple) or len(args) != 1:
        raise InvalidTaskError("body: expected the attempts as one argument")
    columns = columns_of(args[0])
    if not ids or columns.heads() != ids:
        raise InvalidTaskError("body: its attempts are not those of the header")
    for kind in columns.kinds:
        _check_fields({"id": None, **kind})
        _check_header(kind["celeriac"])


def _check_header(header: Any) -> None:
    """A message that only a newer worker understands is refused; its attempt counts as lost, so another may get it."""
    try:
        if isinstance(header, dict):
            check_reader("message", header)
    except WireError as newer:
        raise InvalidTaskError(str(newer)) from newer


class _Guarded:
    """What is laid over a task's Request class."""

    id: str
    name: str
    hostname: str
    task: Any
    app: Any
    worker_pid: int | None
    request_dict: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise InvalidTaskError(f"{type(problem).__name__}: {problem}") from problem

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """The task raised. A MemoryError would be raised again in the main process and end the worker."""
        base: Any = super()
        exc = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(exc, AttemptRefused):
            count_refused({str(exc): 1})
        elif self._is_bundle() and not isinstance(exc, Reject):  # Celery tells only of the message
            shut = state.should_terminate and isinstance(exc, WorkerLostError | Terminated | SystemExit)
            self._tell(lost("WorkerShutdown", ABANDONED) if shut else outside(exc))
        elif state.should_terminate and isinstance(exc, WorkerLostError | Terminated | SystemExit):
            self._tell(lost("WorkerShutdown", ABANDONED))  # in a cold shutdown Celery keeps quiet about these
        try:
            base.on_failure(exc_info, send_failed_event, return_ok)
        except MemoryError as problem:
            log.error("Task %s[%s] ran out of memory; the worker goes on: %s", self.task.name, self.id, problem)
            this: Any = self
            if self.task.acks_late:
                this.acknowledge()
            if not return_ok:
                self.task.backend.mark_as_failure(
                    self.id, problem, request=this._context, store_result=this.store_errors
                )
            if send_failed_event:
                this.send_event("task-failed", exception=repr(problem), traceback=exc_info.traceback)

    def on_timeout(self, soft: bool, timeout: Any) -> None:
        """A time limit passed. In a cold shutdown Celery keeps quiet about hard ones."""
        if not soft and (state.should_terminate or self._is_bundle()):
            self._tell(ending(TimeLimitExceeded(timeout)))
        base: Any = super()
        base.on_timeout(soft, timeout)

    def cancel(self, pool: Any, *args: Any, **kwargs: Any) -> None:
        """The worker stops without waiting, or lost its broker. What runs in a thread cannot be ended, and goes on."""
        if not cannot_stop(pool):
            base: Any = super()
            base.cancel(pool, *args, **kwargs)

    def _announce_cancelled(self, *args: Any, **kwargs: Any) -> None:
        """The worker stops without waiting, or lost its broker: the task's process was told to end."""
        self._tell(lost("WorkerShutdown", ABANDONED))
        base: Any = super()
        base._announce_cancelled(*args, **kwargs)

    def _is_bundle(self) -> bool:
        return self.name == BUNDLE

    def _tell(self, what: Ending) -> None:
        installation = installation_of(self.app)
        if installation is None:
            return
        running = None if installation.progress is None else installation.progress.running(self.worker_pid)
        for id_, ended in endings_of(self.id, self.request_dict.get("celeriac"), running, what):
            tell(installation, id_, ended)
        if running and self._is_bundle():
            gone(installation, self.hostname, self.worker_pid, running, what)


_classes: dict[type, type] = {}


def _guarded(cls: type) -> type:
    made = _classes.get(cls)
    if made is None:
        made = _classes[cls] = type(f"Guarded{cls.__name__}", (_Guarded, cls), {"__module__": __name__})
    return made
