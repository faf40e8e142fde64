"""What runs an attempt of a bundle: Celery's own tracer of its task, made once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery.app.trace import build_tracer
from celery.app.trace import logger as trace_log

_tracers: dict[str, tuple[Any, Callable[..., Any]]] = {}
"""Name of a task -> it, and what runs it in bundles."""


def tracer(task: Any, hostname: str) -> Callable[..., Any]:
    """Celery's own tracer of a task. It says nothing of those that succeed, unless all is to be said: a line costs as
    much as the attempt itself, and the scheduler's records name each.
    """
    found = _tracers.get(task.name)
    if found is None or found[0] is not task:
        level, app = trace_log.level, task.app
        if not trace_log.isEnabledFor(logging.DEBUG):
            trace_log.setLevel(max(trace_log.getEffectiveLevel(), logging.WARNING))  # looked at once, when it is made
        try:
            made = build_tracer(task.name, task, app.loader, hostname, app=app)
        finally:
            trace_log.setLevel(level)
        found = _tracers[task.name] = (task, made)
    return found[1]
