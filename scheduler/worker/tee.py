"""The app's own result backend, which also tells the scheduler how attempts ended.

A backend becomes a subclass of its own class, in place, so everything that holds it goes on as before:
AsyncResult, groups, chords, pickling. Ordinary tasks pass straight through.

For an attempt the user's store comes first, so that whoever hears of the end finds the result; its
trouble is logged and does not turn a finished attempt into a failure. An output that is not
JSON does: Celery is told by EncodeError, exactly as when the user's store cannot encode it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

from celery.exceptions import Reject
from kombu.exceptions import EncodeError

from ..wire import error_record
from .context import Held, held, is_attempt
from .endings import Ending, ending, endings_of, kind_of, lost, outside, refuses
from .installation import Installation, installation_of
from .report import check_size, encode, end, succeed, tell

log = logging.getLogger(__name__)


class _Tee:
    """What is laid over the user's backend class; `app` is Celery's attribute of every backend."""

    celeriac_tee = True
    app: Any

    def mark_as_done(self, task_id: Any, result: Any, *args: Any, **kwargs: Any) -> None:
        """The task returned."""
        base: Any = super()
        it = held(task_id)
        if it is None or it.settled:
            base.mark_as_done(task_id, result, *args, **kwargs)
            return
        if it.retry_after_ms is not None:  # retry(throw=False): it goes on, but asked to be run again
            _own_store(base.mark_as_done, task_id, result, *args, **kwargs)
            end(it, _retried(it, None))
            return
        data = encode(result)
        check_size(data, it.installation.output_limit())
        it.secrets.take_back()  # a result backend may store the arguments too
        _own_store(base.mark_as_done, task_id, result, *args, **kwargs)
        succeed(it, data)

    def mark_as_failure(self, task_id: Any, exc: Any, traceback: Any = None, *args: Any, **kwargs: Any) -> None:
        """The task raised, or the worker's main process says what became of it."""
        base: Any = super()
        it = held(task_id)
        if it is None and not is_attempt(task_id):
            base.mark_as_failure(task_id, exc, traceback, *args, **kwargs)
            return
        raised = sys.exc_info()[1]
        if it is not None:
            it.secrets.take_back()
            raised, exc = raised or exc, it.secrets.exception(exc)  # its class says what it means
            traceback = it.secrets.masked(traceback) if isinstance(traceback, str) else None
        _own_store(base.mark_as_failure, task_id, exc, traceback, *args, **kwargs)
        if it is not None:
            end(it, failure_of(it, raised or exc, traceback))
        elif not isinstance(exc, Reject):  # the child has told of its own Reject
            _tell(self.app, task_id, outside(exc))

    def mark_as_revoked(self, task_id: Any, reason: Any = "", request: Any = None, *args: Any, **kwargs: Any) -> None:
        """A remote revoke, a termination, or an expired message.

        Without a request this worker only heard of a revoke: the attempt may be running elsewhere, so that is no
        ending. Our own terminations have been suppressed before.
        """
        base: Any = super()
        what = lost("TaskRevoked", f"Celery discarded or stopped the task: {reason or 'revoked'}")
        told = endings_of(task_id, request.get("celeriac") if request is not None else None, None, what)
        if not told:
            base.mark_as_revoked(task_id, reason, request, *args, **kwargs)
            return
        _own_store(base.mark_as_revoked, task_id, reason, request, *args, **kwargs)
        if request is not None:
            for id_, ended in told:
                _tell(self.app, id_, ended)

    def mark_as_retry(self, task_id: Any, exc: Any, *args: Any, **kwargs: Any) -> None:
        """The user's store only: Task.on_retry, called for every retry, makes the report."""
        base: Any = super()
        it = held(task_id)
        if it is not None:
            it.secrets.take_back()
            exc = exc and it.secrets.exception(exc)
            args = tuple(it.secrets.masked(one) if isinstance(one, str) else one for one in args)
        if is_attempt(task_id):
            _own_store(base.mark_as_retry, task_id, exc, *args, **kwargs)
        else:
            base.mark_as_retry(task_id, exc, *args, **kwargs)

    def __reduce__(self, *args: Any, **kwargs: Any) -> Any:
        """Pickled as what the user configured: unpickling elsewhere needs no celeriac."""
        base: Any = super()
        rebuild, (cls, *rest) = base.__reduce__(*args, **kwargs)
        return rebuild, (cls.celeriac_base, *rest)


_classes: dict[type, type] = {}


def _tee_class(cls: type) -> type:
    made = _classes.get(cls)
    if made is None:
        made = _classes[cls] = type(f"Tee{cls.__name__}", (_Tee, cls), {"__module__": __name__, "celeriac_base": cls})
    return made


def teed(backend: Any) -> Any:
    """Make a backend tell of our attempts, in place; returns it."""
    if not getattr(backend, "celeriac_tee", False):
        backend.__class__ = _tee_class(type(backend))
    return backend


def tee_app(installation: Installation) -> None:
    """Make every backend that the app makes, and the one it has already made, tell of our attempts."""
    app = installation.app
    make: Callable[[], Any] = app._get_backend
    app._get_backend = lambda: teed(make())
    if app._backend is not None:
        teed(app._backend)


def tee_task(task: Any) -> None:
    """The same for a task with a backend of its own, which bypasses the app's."""
    own = next((vars(cls)["backend"] for cls in type(task).__mro__ if "backend" in vars(cls)), None)
    for backend in (own, vars(task).get("backend"), task._backend):
        if hasattr(backend, "mark_as_done"):
            teed(backend)


def failure_of(it: Held, exc: BaseException, traceback: object) -> Ending:
    """What an exception that came out of the attempt running here means."""
    task, request = it.task, it.request
    kinds = it.installation.kinds(task.name)
    called_wrongly = isinstance(exc, TypeError) and refuses(task, request.args, request.kwargs)
    if called_wrongly and kind_of(exc, kinds) == "transient":
        return ending(exc, kinds, traceback=traceback, kind="invalid_input", phase="validate", mask=it.secrets.masked)
    return ending(exc, kinds, traceback=traceback, mask=it.secrets.masked)


def _retried(it: Held, exc: BaseException | None) -> Ending:
    if exc is None:
        return Ending("retried", error_record("transient", "Retry", ""), it.retry_after_ms)
    return Ending(
        "retried", ending(exc, it.installation.kinds(it.task.name), mask=it.secrets.masked).error, it.retry_after_ms
    )


def retried(it: Held, exc: BaseException | None) -> None:
    """Report that the task running here asked to be tried again."""
    end(it, _retried(it, exc))


def _own_store(mark: Callable[..., Any], task_id: Any, *args: Any, **kwargs: Any) -> None:
    """The user's own store; its outage is not the attempt's."""
    try:
        mark(task_id, *args, **kwargs)
    except (EncodeError, MemoryError):
        raise
    except Exception:
        log.warning("the result backend stored nothing for attempt %s; the scheduler is told", task_id, exc_info=True)


def _tell(app: Any, task_id: str, what: Ending) -> None:
    installation = installation_of(app)
    if installation is not None:
        tell(installation, task_id, what)
