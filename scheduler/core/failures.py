"""Error records as they are stored: what workers report is made complete here, and what the scheduler says itself.

Pure. Kinds, origins and phases are those of errors.py, the one table; every record has one of each, and the run's
correlation id, by which it is found in the logs of others.
"""

from __future__ import annotations

from typing import Any

from ..errors import ERROR_KINDS, ORIGINS, PHASES
from .run import Run

TOO_LATE = "DeadlineTooNear"
"""Type of the error of an attempt that was not begun, because its executor would not be done by the run's deadline."""


def is_too_late(error: dict[str, Any]) -> bool:
    """Whether an attempt was not begun for want of time: then the same executor once more mends nothing."""
    return error.get("type") == TOO_LATE and error.get("phase") == "admit"


def failure(run: Run, kind: str, type_: str, message: str, phase: str) -> dict[str, Any]:
    """An error that the scheduler has seen itself; who is at fault follows from its kind."""
    return completed(run, {"kind": kind, "type": type_, "message": message, "phase": phase})


def completed(run: Run, error: dict[str, Any]) -> dict[str, Any]:
    """An error record with all that it must have; one of a worker of another version may lack something.

    What is no kind is told as "transient", so it is tried again, under the node's limits.
    """
    kind = error.get("kind")
    if not isinstance(kind, str) or kind not in ERROR_KINDS:
        kind = "transient"
    origin, phase = error.get("origin"), error.get("phase")
    return error | {
        "kind": kind,
        "origin": origin if origin in ORIGINS else ERROR_KINDS[kind].origin,
        "phase": phase if phase in PHASES else "execute",
        "correlation_id": run.correlation_id or run.id,
    }
