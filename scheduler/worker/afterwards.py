"""What Celery says of an attempt once its task is over: endings that no backend hears of are told here."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from celery.exceptions import Ignore

from .claim import hand_over
from .context import HELD, Held, is_attempt
from .endings import GIVEN_BACK, Ending, endings_of, error_of, lost
from .installation import installation_of
from .report import end, tell
from .tee import failure_of

_last: ContextVar[Held | None] = ContextVar("celeriac_last", default=None)
"""The attempt that this thread ran last, for what Celery has to say after it."""


def after_run(task_id: Any = None, retval: Any = None, state: Any = None, **_: Any) -> None:
    """Celery signal task_postrun: the attempt leaves this thread; endings that no backend hears of are told here."""
    it = HELD.get()
    if it is None or it.id != task_id:
        return
    HELD.set(None)
    _last.set(it)
    it.secrets.take_back()
    if it.settled or it.replaced:
        return
    if state == "IGNORED":
        end(it, Ending("failed", error_of(retval, "permanent", mask=it.secrets.masked)))
    elif state == "REJECTED":
        if not retval.requeue:
            end(it, Ending("failed", error_of(retval, "permanent", mask=it.secrets.masked)))
        elif it.bundle is not None:
            end(it, lost(GIVEN_BACK, "the task asked for another delivery"))
        elif it.task.acks_late:
            hand_over(it, "requeued")
        else:
            end(it, lost("Reject", "the task asked for another delivery, but its message was acknowledged early"))
    elif isinstance(retval, Ignore):
        end(it, failure_of(it, retval, None))
    elif state is None and not it.installation.in_pool_process:  # SystemExit and its like; else the parent tells
        end(it, lost("SystemExit", "the task ended its own process or thread"))


def on_internal_error(
    sender: Any = None, task_id: Any = None, request: Any = None, exception: BaseException | None = None, **_: Any
) -> None:
    """Celery signal task_internal_error: something failed around the task and not in it."""
    installation = installation_of(getattr(sender, "app", None))
    if installation is None:
        return
    if not is_attempt(task_id):
        header = request.get("celeriac") if isinstance(request, dict) else None
        for id_, what in endings_of(task_id, header, "", lost(type(exception).__name__, f"outside: {exception}")):
            tell(installation, id_, what)
        return
    last = _last.get()
    if last is not None and last.id == task_id and last.settled:
        if installation.courier is not None:
            installation.courier.suppress(task_id)
        return
    text = f"outside the task itself: {exception}"
    told = last.secrets.masked(text) if last is not None and last.id == task_id else text
    tell(installation, task_id, lost(type(exception).__name__, told))
