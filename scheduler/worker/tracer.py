"""What runs an attempt of a bundle: Celery's own tracer of its task, made once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import FunctionType
from typing import Any

from celery import signals
from celery.app.trace import build_tracer
from celery.app.trace import logger as trace_log

from .afterwards import after_run

log = logging.getLogger(__name__)

_tracers: dict[tuple[str, bool], tuple[Any, Callable[..., Any]]] = {}
"""Name of a task, and whether its results are told -> it, and what runs it in bundles."""


def tracer(task: Any, hostname: str, *, told: bool) -> Callable[..., Any]:
    """Celery's own tracer of a task. It says nothing of those that succeed, unless all is to be said: a line costs as
    much as the attempt itself, and the scheduler's records name each.

    Args:
        told: somebody listens to events of the attempts, so their results are put into words; that takes a tenth of a
            short attempt's time.
    """
    found = _tracers.get((task.name, told))
    if found is None or found[0] is not task:
        level, app, quiet = trace_log.level, task.app, not trace_log.isEnabledFor(logging.DEBUG)
        if quiet:
            trace_log.setLevel(max(trace_log.getEffectiveLevel(), logging.WARNING))  # looked at once, when it is made
        try:
            made = build_tracer(task.name, task, app.loader, hostname, app=app)
        finally:
            trace_log.setLevel(level)
        if quiet and not told and type(made) is FunctionType:
            made = _in_short(made)
        found = _tracers[task.name, told] = (task, made)
    return found[1]


def _in_short(made: FunctionType) -> FunctionType:
    """The same tracer, which puts no result into words that nobody reads, and tells us straight of what is over."""
    known = {**made.__globals__, "saferepr": _nothing, "send_postrun": _send_postrun}
    quiet = FunctionType(made.__code__, known, made.__name__, made.__defaults__, made.__closure__)
    quiet.__kwdefaults__ = made.__kwdefaults__
    return quiet


def _nothing(*_: object, **__: object) -> str:
    return ""


def _send_postrun(**told: Any) -> None:
    """Celery's signal task_postrun, for which it looks up each time who listens; that is mostly nobody but us."""
    receivers = signals.task_postrun.receivers
    if len(receivers) != 1 or receivers[0][1] is not after_run:
        signals.task_postrun.send(**told)
        return
    try:
        after_run(**told)
    except Exception as problem:  # as the signal does
        log.exception("Signal handler %r raised: %r", after_run, problem)
