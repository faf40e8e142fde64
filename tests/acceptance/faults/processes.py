"""Processes that a rig starts, and what is done to them: by pid, never by name."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import psutil

from scheduler.embedded import die_with_parent
from tests import waiting

T = TypeVar("T")
eventually = waiting.eventually


class Kill(NamedTuple):
    """A signal that ended a process.

    Attributes:
        at: s of the monotonic clock.
        name: of the process; "redis"; or "child of NAME".
        how: name of the signal.
        pid: of the process.
        at_ms: the same instant by the wall clock, ms since 1970, to be compared with what the system tells.
    """

    at: float
    name: str
    how: str
    pid: int
    at_ms: int


@dataclass
class Process:
    """A process, and how to start it again."""

    command: tuple[str, ...]
    env: Mapping[str, str] | None
    running: subprocess.Popen[bytes]


def start(command: Sequence[str], env: Mapping[str, str], directory: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a process that ends with this one.

    Only the main thread may call this: on Linux the kernel ends a child with the thread that forked it.
    """
    with log.open("ab") as out:
        return subprocess.Popen(
            command,
            env=env,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            preexec_fn=die_with_parent(),  # noqa: PLW1509  one system call, prepared before the fork
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """End it for good, also when it was stopped."""
    if process.poll() is None:
        process.kill()
    process.wait(60)


def children(pid: int) -> list[int]:
    """Pids of the processes that this one has started and that live."""
    try:
        found = psutil.Process(pid).children()
        return sorted(it.pid for it in found if it.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return []
