"""A run and its log as of one moment, for who explains it; and the instants that it can be asked for."""

from __future__ import annotations

from datetime import datetime

from ..core.history import Line, lines_of
from ..core.run import Run
from ..errors import InvalidValue
from ..graph.limits import seconds_of
from ..store.outcomes import log_end
from ..store.runs import Runs
from ..wire import RunId

_READS = 3


def read_whole(runs: Runs, run: RunId) -> tuple[Run, list[Line]]:
    """A run and its whole log, of one moment if that can be had: read again while the log grows meanwhile.

    Raises:
        RunNotFound: there is no such run.
    """
    for _ in range(_READS):
        before = log_end(runs, run)
        found, entries = runs.load(run), runs.history(run)
        if not entries or entries[-1][0] == before:
            break
    return found, lines_of(entries)


def instant_ms(at: object, created_at_ms: int) -> int:
    """An instant, ms since 1970.

    Raises:
        InvalidValue: it is none, or has no time zone.
    """
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise InvalidValue("at", at, "has no time zone", "Write datetime.now(UTC), or seconds after the start.")
        return int(at.timestamp() * 1000)
    return created_at_ms + round(seconds_of(at, "at", 0) * 1000)
