"""Errors as a shell sees them: an exit status, and words for a terminal.

Statuses are stable: scripts branch on them. cli/__init__.py lists them.
"""

from __future__ import annotations

from ..errors import (
    CeleriacError,
    DeadLetterNotFound,
    GraphError,
    KeyReused,
    NodeNotFound,
    PolicyNotFound,
    RunCancelled,
    RunNotFound,
    SettingsError,
    StoreUnreachable,
    WaitTimeout,
    escaped,
)

FAILED = 1
USAGE = 2
CANCELLED = 3
NOT_FOUND = 5
INVALID_GRAPH = 6
UNREACHABLE = 69
NO_WORKER = 75
TIMED_OUT = 124
DETACHED = 130

_STATUS: tuple[tuple[type[CeleriacError], int], ...] = (
    (GraphError, INVALID_GRAPH),
    (RunNotFound, NOT_FOUND),
    (DeadLetterNotFound, NOT_FOUND),
    (NodeNotFound, NOT_FOUND),
    (PolicyNotFound, NOT_FOUND),
    (RunCancelled, CANCELLED),
    (WaitTimeout, TIMED_OUT),
    (KeyReused, USAGE),
    (SettingsError, USAGE),
    (StoreUnreachable, UNREACHABLE),
)


def status_of(error: Exception) -> int | None:
    """The exit status for an error; None for one that nobody planned.

    >>> from scheduler.errors import RunNotFound
    >>> status_of(RunNotFound("x")), status_of(ZeroDivisionError())
    (5, None)
    """
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    if isinstance(error, CeleriacError):
        return FAILED
    return UNREACHABLE if _from_redis(error) else None


def words_of(error: Exception) -> str:
    """The error as one message for a terminal."""
    if isinstance(error, CeleriacError):
        return escaped(str(error), 20_000, keep="\n")
    return f"Redis does not answer: {escaped(_from_redis(error), 500).rstrip('.')}. `celeriac doctor` tells more."


def _from_redis(error: Exception) -> str:
    """What the connection said, for an error of the Redis client; "" for any other."""
    from ..store.health import connection_problem

    return connection_problem(error)
