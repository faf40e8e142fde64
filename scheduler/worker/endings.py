"""What an exception means for the attempt that it ended.

Pure. Looks at classes, most particular first: what the executor or the app declared, then the table
here; anything else is transient. Kinds, origins and phases are those of errors.py.
"""

from __future__ import annotations

import inspect
import re
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

from ..errors import ERROR_KINDS, ORIGINS, PHASES, ExecutorError, InvalidValue, did_you_mean
from ..wire import AttemptId, carried, error_record

Meaning = str | tuple[str, str]
"""What an exception means: a kind, or a kind and who is at fault."""
ErrorTable = Mapping[type[BaseException] | str, Meaning]
"""Exception class, or its full name such as "requests.exceptions.HTTPError", -> what it means."""

_BUILT_IN: dict[type[BaseException] | str, Meaning] = {
    ConnectionError: ("transient", "external"),
    TimeoutError: ("timeout", "external"),
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
    NotRegistered: ("permanent", "infrastructure"),
    Ignore: "permanent",
    Reject: "permanent",
}
_PHASES: dict[type[BaseException], str] = {
    EncodeError: "collect",
    NotRegistered: "dispatch",
    InvalidTaskError: "dispatch",
    ContentDisallowed: "dispatch",
    DecodeError: "dispatch",
}
"""Where attempts were that ended by these; all others ran."""
GIVEN_BACK = "GivenBack"
"""Type of the error of an attempt that came with others in one message and goes back for no fault of its own: its turn
had not come, or its report had not left, when its neighbour took their process away or took too long."""
_FULL_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended without an output: the fields of its report."""

    end: str
    error: dict[str, Any]
    retry_after_ms: int | None = None


def check_errors(errors: object, where: str) -> None:
    """Whether a declaration of exceptions can be used.

    Args:
        where: it stands, for the error.

    Raises:
        InvalidValue: it is no mapping, a key is no exception, or a value no kind; names the one that is wrong.
    """
    if not isinstance(errors, Mapping):
        raise InvalidValue(where, errors, "is no mapping", 'Write {HTTPError: "transient", ...}.')
    for key, meaning in errors.items():
        if isinstance(key, str):
            if not _FULL_NAME.fullmatch(key):
                remedy = 'Write module and class, as in "requests.exceptions.HTTPError" or "builtins.KeyError".'
                raise InvalidValue(where, key, "is not the full name of an exception", remedy)
        elif not (isinstance(key, type) and issubclass(key, BaseException)):
            raise InvalidValue(where, key, "is no class of exceptions", "Write the class, or its full name.")
        at = f"{where}[{key if isinstance(key, str) else key.__name__}]"
        kind, origin = meaning if isinstance(meaning, tuple) and len(meaning) == 2 else (meaning, None)
        if not isinstance(kind, str) or kind not in ERROR_KINDS:
            hint = did_you_mean(kind, ERROR_KINDS) if isinstance(kind, str) else ""
            remedy = f"Use one of {', '.join(sorted(ERROR_KINDS))}.{hint}"
            raise InvalidValue(at, kind, "is not an error kind", remedy)
        if origin is not None and origin not in ORIGINS:
            raise InvalidValue(at, origin, "is not an origin", f"Use one of {', '.join(ORIGINS)}.")


def meaning_of(exc: BaseException, declared: Iterable[ErrorTable] = ()) -> tuple[str, str | None]:
    """The error kind of an exception, and who is at fault where that does not follow from the kind.

    Its class is looked for before its bases; for each of them, the tables in their order, ours last.

    >>> meaning_of(ValueError()), meaning_of(MemoryError()), meaning_of(ConnectionError())
    (('transient', None), ('lost', None), ('transient', 'external'))
    >>> meaning_of(KeyError(), [{LookupError: "permanent", "builtins.KeyError": ("invalid_input", "external")}])
    ('invalid_input', 'external')
    """
    if isinstance(exc, ExecutorError):
        return exc.kind, exc.origin
    tables = [*declared, _BUILT_IN]
    for cls in type(exc).__mro__:
        name = f"{cls.__module__}.{cls.__qualname__}"
        for table in tables:
            found = table.get(cls) or table.get(name)
            if found is not None:
                return found if isinstance(found, tuple) else (found, None)
    return "transient", None


def kind_of(exc: BaseException, declared: Iterable[ErrorTable] = ()) -> str:
    """The error kind of an exception."""
    return meaning_of(exc, declared)[0]


def ending(
    exc: BaseException,
    declared: Iterable[ErrorTable] = (),
    *,
    traceback: object = None,
    kind: str | None = None,
    phase: str | None = None,
    mask: Callable[[str], str] | None = None,
) -> Ending:
    """The ending that an exception in an executor means: failed, or lost when infrastructure took it.

    Args:
        kind, phase: where the caller knows better.
        mask: takes out of texts what must not be told.
    """
    meant, origin = meaning_of(exc, declared)
    if kind is not None and kind != meant:
        meant, origin = kind, None
    after = getattr(exc, "retry_after_seconds", None) if meant == "rate_limited" else None
    return Ending(
        "lost" if meant == "lost" else "failed",
        error_of(exc, meant, traceback, mask, origin=origin, phase=phase),
        max(0, round(after * 1000)) if isinstance(after, int | float) else None,
    )


def outside(exc: BaseException) -> Ending:
    """What an exception means that the worker's main process reports of an attempt in its pool, or of a message."""
    kind = kind_of(exc)
    if kind == "transient":  # not from the executor, or its own process would have told
        return lost(type(exc).__name__, str(exc))
    return ending(exc, kind=kind)


def lost(type_: str, message: str) -> Ending:
    """Infrastructure took the attempt; it does not use up the node's retries."""
    return Ending("lost", error_record("lost", type_, message, origin="infrastructure"))


def endings_of(task_id: object, header: object, running: str | None, what: Ending) -> list[tuple[str, Ending]]:
    """What is to be told of a message's attempts when whoever had it is gone; what they have reported stands.

    Args:
        task_id, header: of the message, as for wire.carried.
        running: the attempt that it was at, which may be the next step of a chain and stand in no header; "" for none,
            None when nobody knows.
        what: became of that one. Those that came with it, if they have not reported, go back at no cost.
    """
    ids = carried(task_id, header)
    if running is None or task_id in ids:
        return [(id_, what) for id_ in ids]
    if ids and running not in ids and AttemptId.parse(running) is not None:
        ids = [*ids, running]
    back = lost(GIVEN_BACK, f"it came with an attempt that ended its process: {what.error.get('message', '')}")
    return [(id_, what if id_ == running else back) for id_ in ids]


def error_of(
    exc: BaseException,
    kind: str,
    traceback: object = None,
    mask: Callable[[str], str] | None = None,
    *,
    origin: str | None = None,
    phase: str | None = None,
) -> dict[str, Any]:
    """An exception as an error record. Never raises, whatever its __str__ does."""
    try:
        message = str(exc)
    except Exception:  # noqa: BLE001  a foreign __str__ may do anything
        message = "(the exception has no readable text)"
    if mask is not None:
        message, traceback = mask(message), mask(traceback) if isinstance(traceback, str) else None
    own_origin = getattr(exc, "origin", None)
    own_phase = getattr(exc, "phase", None) if isinstance(exc, ExecutorError) else None
    found = next((phase for cls, phase in _PHASES.items() if isinstance(exc, cls)), "execute")
    return error_record(
        kind,
        str(getattr(exc, "exc_cls_name", None) or type(exc).__name__),
        message,
        origin=own_origin if isinstance(own_origin, str) and own_origin in ORIGINS else origin,
        phase=phase or (own_phase if isinstance(own_phase, str) and own_phase in PHASES else found),
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
