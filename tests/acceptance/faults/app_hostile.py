"""Executors that do harm: the base load's app with one task more."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from scheduler.worker import attempt

from . import harm as harms
from . import ledger
from .app import app, note
from .checksum import checksum

__all__ = ["app"]


@app.task(name=harms.HARM)
def harm(name: str, how: str = "", ms: float = 0.0, parents: Sequence[Any] = (), quiet: bool = False) -> Any:
    """Work for some ms, then do harm of a kind; "" does none: a step like those of the base load.

    A line in the ledger tells the harm before it is done, for afterwards there may be nobody to tell it.

    Args:
        how: a key of harm.ALL, or FAILS_FIRST: the first attempt fails at once.
        quiet: nothing is written into the ledger.
    """
    first = how == harms.FAILS_FIRST and getattr(attempt(), "number", 0) == 1
    if not quiet:
        note(ledger.START)
    if not first:
        time.sleep(ms / 1000)  # the work itself
    if not quiet:
        note(ledger.FAIL if first or how in harms.ALL else ledger.END)
    if first:
        raise ValueError("not at the first go")
    return harms.ALL[how]() if how in harms.ALL else checksum(name, parents)
