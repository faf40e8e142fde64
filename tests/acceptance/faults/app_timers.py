"""Executors that take their time: the base load's app with two tasks more. They leave nothing in the ledger."""

from __future__ import annotations

import time
from typing import Any

from scheduler.worker import attempt

from .app import app

__all__ = ["app"]


@app.task(name="faults.long")
def long(seconds: float) -> None:
    """Work for so long."""
    time.sleep(seconds)  # the work itself


@app.task(name="faults.patient", bind=True)
def patient(self: Any, seconds: float) -> int:
    """The first try asks for another one after so many seconds; returns the number of the one that ended well."""
    number = int(getattr(attempt(), "number", 0))
    if number == 1:
        raise self.retry(countdown=seconds)
    return number
