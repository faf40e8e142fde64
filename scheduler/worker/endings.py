"""What an exception means for the attempt that it ended.

Pure. Looks at classes, most particular first: what the executor or the app declared, then the table
here; anything else is transient. Kinds and origins are those of wire.error_record.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from celery.exceptions import (
    Ignore,
    InvalidTaskError,
    NotRegistered,
    Reject,
    SoftTimeLimitExceeded,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
    WorkerShutdown,
    WorkerTerminate,
)
from kombu.exceptions import ContentDisallowed, DecodeError, EncodeError

from ..errors import ExecutorError
from ..wire import error_record

KINDS = frozenset(
    {"transient", "rate_limited", "timeout", "lost", "invalid_input", "contract", "permanent", "safety"}
    | {"budget", "cancelled"}
)
ORIGINS = {
    "contract": "contract",
    "lost": "infrastructure",
    "timeout": "policy",
    "safety": "policy",
    "budget": "policy",
    "rate_limited": "external",
}
_BUILT_IN: dict[type[BaseException], str] = {
    SoftTimeLimitExceeded: "timeout",
    TimeLimitExceeded: "timeout",
    MemoryError: "lost",
    WorkerLostError: "lost",
    Terminated: "lost",
    WorkerShutdown: "lost",
    WorkerTerminate: "lost",
    SystemExit: "lost",
    KeyboardInterrupt: "lost",
    InvalidTaskError: "lost",
    ContentDisallowed: "lost",
    DecodeError: "lost",
    EncodeError: "contract",
    NotRegistered: "permanent",
    Ignore: "permanent",
    Reject: "permanent",
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended without an output: the fields of its report."""

    end: str
    error: dict[str, Any]
    retry_after_ms: int | None = None


def kind_of(exc: BaseException, declared: Iterable[Mapping[type[BaseException], str]] = ()) -> str:
    """The error kind of an exception.

    >>> kind_of(ValueError()), kind_of(MemoryError()), kind_of(ValueError(), [{ValueError: "permanent"}])
    ('transient', 'lost', 'permanent')
    """
    if isinstance(exc, ExecutorError):
        return exc.kind
    tables = [*declared, _BUILT_IN]
    for cls in type(exc).__mro__:
        for table in tables:
            if cls in table:
                return table[cls]
    return "transient"


def ending(
    exc: BaseException,
    declared: Iterable[Mapping[type[BaseException], str]] = (),
    *,
    traceback: object = None,
    kind: str | None = None,
    mask: Callable[[str], str] | None = None,
) -> Ending:
    """The ending that an exception in an executor means: failed, or lost when infrastructure took it.

    Args:
        mask: takes out of texts what must not be told.
    """
    kind = kind or kind_of(exc, declared)
    after = getattr(exc, "retry_after_seconds", None) if kind == "rate_limited" else None
    return Ending(
        "lost" if kind == "lost" else "failed",
        error_of(exc, kind, traceback, mask),
        max(0, round(after * 1000)) if isinstance(after, int | float) else None,
    )


def lost(type_: str, message: str) -> Ending:
    """Infrastructure took the attempt; it does not use up the node's retries."""
    return Ending("lost", error_record("lost", type_, message, origin="infrastructure"))


def error_of(
    exc: BaseException, kind: str, traceback: object = None, mask: Callable[[str], str] | None = None
) -> dict[str, Any]:
    """An exception as an error record. Never raises, whatever its __str__ does."""
    try:
        message = str(exc)
    except Exception:  # noqa: BLE001  a foreign __str__ may do anything
        message = "(the exception has no readable text)"
    if mask is not None:
        message, traceback = mask(message), mask(traceback) if isinstance(traceback, str) else None
    origin = getattr(exc, "origin", None)
    return error_record(
        kind,
        str(getattr(exc, "exc_cls_name", None) or type(exc).__name__),
        message,
        origin=origin if isinstance(origin, str) else ORIGINS.get(kind, "executor"),
        traceback=traceback if isinstance(traceback, str) else None,
    )


def refuses(task: Any, args: Any, kwargs: Any) -> bool:
    """Whether the task's function cannot be called with these arguments at all."""
    try:
        inspect.signature(task.run).bind(*args, **kwargs)
    except TypeError:
        return True
    except ValueError:  # a builtin without a signature
        return False
    return False
