"""The ledger: what tasks write down outside the system, one line when they start and one when they end.

A line is one write to a file opened for appending, so lines of many processes never mix, and kill -9 costs at
most the line that had not been written. Instants are those of the machine's monotonic clock, seconds, the same for
every process of it. Knows nothing of celeriac.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import NamedTuple

START, END, FAIL = "start", "end", "fail"
_files: dict[str, int] = {}


class Line(NamedTuple):
    """One line.

    Attributes:
        what: "start", "end" or "fail".
        attempt: number of the attempt of the node, as the task was told.
        at: instant, s of the monotonic clock.
        pid: of the process.
    """

    what: str
    run: str
    node: str
    attempt: int
    at: float
    pid: int


def write(path: str, what: str, run: str, node: str, attempt: int) -> None:
    """Append a line; safe from threads, and from processes that were forked."""
    file = _files.get(path)
    if file is None:
        file = _files[path] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    line = json.dumps([what, run, node, attempt, round(time.monotonic(), 6), os.getpid()])
    os.write(file, line.encode() + b"\n")


def read(path: Path) -> list[Line]:
    """Every whole line so far, in the order in which they were written."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [Line(*json.loads(line)) for line in text[: text.rfind("\n") + 1].splitlines()]
