"""Harm that a task can do: kill, exhaust or exit its own process, or end in a way that nobody can carry.

Plain functions by name, so that rows can name them; app_hostile.py has the task that does them.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

HARM = "faults.harm"
"""The task."""
ROOM_BYTES = 48 << 20
"""What a process that shall run out of memory still gets."""


class Unpicklable(ValueError):
    """Neither pickles nor can be made again from its arguments."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.keep = lambda: first + second


class Unspeakable(ValueError):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Unreduced(ValueError):
    """Breaks whoever tries to pickle it."""

    def __reduce__(self) -> NoReturn:
        raise RuntimeError("not me")


class Beyond(BaseException):
    """No Exception, so most handlers let it pass."""


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _read_null() -> None:
    ctypes.string_at(0)


def _eat(least: int = 8 << 20) -> NoReturn:
    """Allocate until there is no room for `least` bytes under a limit that stays in force in this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM_BYTES, resource.RLIM_INFINITY))
    size, eaten = 8 << 20, []
    while True:
        try:
            eaten.append(bytearray(size))
        except MemoryError:
            if size <= least:
                raise
            size //= 2


def _eat_natively() -> None:
    """As a C++ library does: what cannot be allocated ends the process."""
    try:
        _eat(1 << 20)
    except MemoryError:
        os.abort()


def _raise(error: BaseException) -> Callable[[], NoReturn]:
    def harm() -> NoReturn:
        raise error

    return harm


def _deep(levels: int = 50_000) -> Any:
    made: list[Any] = []
    for _ in range(levels):
        made = [made]
    return made


def _cycle() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


LOST: dict[str, Callable[[], Any]] = {
    "kill": _kill,
    "exit": lambda: os._exit(4),
    "segfault": _read_null,
    "abort": os.abort,
    "MemoryError": _raise(MemoryError("said so")),
    "eats": _eat,
    "eats natively": _eat_natively,
    "sys.exit": lambda: sys.exit(3),
    "KeyboardInterrupt": _raise(KeyboardInterrupt()),
    "CancelledError": _raise(asyncio.CancelledError()),
    "BaseException": _raise(Beyond("x")),
}
"""Harm that infrastructure is taken to have done: the attempt is lost, again and again, up to a cap."""

BROKEN: dict[str, Callable[[], Any]] = {
    "an object": object,
    "not a number": lambda: float("nan"),
    "half a surrogate": lambda: "\ud800",
    "a cycle": _cycle,
    "too deep": _deep,
}
"""Outputs that JSON cannot carry: failed at once, and never passed on."""

FAILED: dict[str, Callable[[], Any]] = {
    "unpicklable": lambda: _raise(Unpicklable(1, 2))(),
    "unspeakable": lambda: _raise(Unspeakable())(),
    "unreduced": lambda: _raise(Unreduced("x"))(),
    "a megabyte of words": lambda: _raise(ValueError("x" * 1_000_000))(),
    "not even text": lambda: _raise(ValueError(b"\xff\x00", "\ud800\x00"))(),
    "StopIteration": lambda: _raise(StopIteration(1))(),
}
"""Failures that are hard to tell: the attempt has failed, and the next try is the retry policy's affair."""

ENDS: dict[str, Callable[[], Any]] = {
    "huge": lambda: "x" * 4_000_000,
    "wide": lambda: {f"key {n}": [n] * 3 for n in range(20_000)},
    "dark text": lambda: "\x00\x1b[31m\u202e" * 1000,
}
"""Outputs that are unpleasant and right."""

STARVED = "eats all"
"""Not one byte is left, so nobody can say what breaks first: the task, the interpreter, or the process."""

ALL = {STARVED: lambda: _eat(64)} | LOST | BROKEN | FAILED | ENDS
FAILS_FIRST = "fails first"
