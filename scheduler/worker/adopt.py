"""What install() lays around each task, without changing the task: claim, retry, replace, survival.

Wraps the hooks that Celery documents for this (before_start, on_retry, on_replace,
signature_from_request, Strategy) on the task's class, so tasks with hooks and base classes of their own work as before.
Done again it changes nothing.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from celery.exceptions import Retry, WorkerLostError

from ..errors import Permanent
from .claim import begin, hand_over
from .context import Held, held, is_attempt
from .endings import lost
from .installation import Installation
from .report import tell
from .survival import guard
from .tee import retried, tee_task

Hook = Callable[..., Any]
_OURS = "_celeriac_hook"


def adopt_all(installation: Installation) -> None:
    """Prepare every task that is registered now."""
    for task in list(installation.app._tasks.values()):
        adopt(installation, task)


def adopt(installation: Installation, task: Any) -> None:
    """Prepare one task."""
    tee_task(task)
    guard(task)
    _wrap(task, "before_start", lambda original: _before_start(installation, original))
    _wrap(task, "on_retry", lambda original: _on_retry(installation, original))
    _wrap(task, "on_failure", _on_failure)
    _wrap(task, "on_replace", _on_replace)
    _wrap(task, "signature_from_request", _signature_from_request)


def _wrap(task: Any, name: str, make: Callable[[Hook], Hook]) -> None:
    cls = type(task)
    found = inspect.getattr_static(cls, name, None)
    if found is None or hasattr(found, _OURS):
        return
    hook = make(found)
    setattr(hook, _OURS, True)
    setattr(cls, name, hook)
    own = vars(task).get(name)
    if own is not None:  # set on the instance, where it would hide ours
        del task.__dict__[name]
        hidden = make(staticmethod(own))
        setattr(hidden, _OURS, True)
        setattr(cls, name, hidden)


def _bound(original: Any, task: Any) -> Hook:
    """A hook as the task would have got it: function, staticmethod, or any callable."""
    bound: Hook = original.__get__(task, type(task)) if hasattr(original, "__get__") else original
    return bound


def _before_start(installation: Installation, original: Any) -> Hook:
    plain = getattr(original, "__module__", None) == "celery.app.task"  # Celery's own does nothing

    def before_start(self: Any, task_id: str, args: Any, kwargs: Any) -> None:
        begin(installation, self, task_id, args, kwargs)
        if not plain:
            _bound(original, self)(task_id, args, kwargs)

    return before_start


def _on_retry(installation: Installation, original: Any) -> Hook:
    def on_retry(self: Any, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        it = held(task_id)
        if it is not None:
            it.secrets.error_info(einfo)
            exc = exc and it.secrets.exception(exc)
            raised = sys.exc_info()[1]
            if it.retry_after_ms is None and isinstance(raised, Retry):  # raised without retry()
                it.retry_after_ms = _wait_ms(raised.when)
            retried(it, exc if isinstance(exc, BaseException) else raised)
        elif is_attempt(task_id):
            what = "WorkerLostError" if isinstance(exc, WorkerLostError) else "Cancelled"
            tell(installation, task_id, lost(what, f"Celery took the task from its process: {exc}"))
        _bound(original, self)(exc, task_id, args, kwargs, einfo)

    return on_retry


def _on_failure(original: Any) -> Hook:
    """Called with what Celery is about to log, to send as an event and to hand to whoever listens."""

    def on_failure(self: Any, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        it = held(task_id)
        if it is not None:
            exc = it.secrets.exception(exc)
            it.secrets.error_info(einfo)
        _bound(original, self)(exc, task_id, args, kwargs, einfo)

    return on_failure


def _on_replace(original: Any) -> Hook:
    def on_replace(self: Any, sig: Any) -> Any:
        it = held(self.request.id)
        if it is not None and not self.request.is_eager:
            hand_over(it, "replaced")
            it.replaced = True
        return _bound(original, self)(sig)

    return on_replace


def _signature_from_request(original: Any) -> Hook:
    def signature_from_request(
        self: Any, request: Any = None, args: Any = None, kwargs: Any = None, queue: Any = None, **options: Any
    ) -> Any:
        asked = self.request if request is None else request
        again = _bound(original, self)(request, args, kwargs, queue, **options)
        if not is_attempt(asked.id) or asked.is_eager or asked.called_directly:
            return again
        it = held(asked.id)
        changed = (args is not None and list(args) != list(asked.args or ())) or (
            kwargs is not None and dict(kwargs) != dict(asked.kwargs or {})
        )
        if it is not None and changed:
            raise Permanent(
                f"{self.name} called retry() with other arguments. The inputs of a node are fixed by its graph: retry "
                "without args and kwargs, or make the second step a node of its own."
            )
        again.apply_async = _Unsent(it, options)
        return again

    return signature_from_request


class _Unsent:
    """Stands where retry() would publish the next try: for an attempt the scheduler does that."""

    def __init__(self, it: Held | None, options: dict[str, Any]) -> None:
        self.it = it
        self.options = options

    def __call__(self, *_: Any, **__: Any) -> None:
        if self.it is not None:
            self.it.retry_after_ms = _wait_ms(self.options.get("eta") or self.options.get("countdown"))


def _wait_ms(when: Any) -> int:
    """The wait until `when`: seconds, a datetime, or None."""
    if isinstance(when, datetime):
        aware = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        return max(0, round((aware.timestamp() - time.time()) * 1000))
    return max(0, round(when * 1000)) if isinstance(when, int | float) else 0
