"""A small supervisor: starts processes, passes on what they say, keeps them going, ends them in order.

For `celeriac up` and `celeriac demo`. Every child leads a process group of its own, so that Ctrl-C on the terminal
reaches us alone and a child is killed with all it started; on Linux it also gets SIGTERM when we die, however we die.
Only processes that were started here are ever signalled.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from ..embedded import die_with_parent

_LOOK_SECONDS = 0.5
STEADY_SECONDS = 10.0
"""A child that lived this long counts as well started; its next end is its first one again."""
TRIES = 5
"""Starts in a row, each too short, after which a child is given up and so is the whole."""


@dataclass(eq=False)
class Child:
    """One process, and how to start it again.

    Attributes:
        grace_seconds: between SIGTERM and SIGKILL.  stage: children of higher stages are ended first.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    grace_seconds: float
    stage: int
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    short_lives: int = 0
    again_at: float = 0.0
    rest: bytes = field(default=b"", repr=False)


class Supervisor:
    """Children, from start to end. Use it from the main thread: signals and parent-death both ask for that.

    Args:
        say: takes (child, line) for every line a child writes, and what we have to say about it.
        logs: a directory; what children write goes to files there instead of `say`.
    """

    def __init__(self, say: Callable[[str, str], None], *, logs: Path | None = None) -> None:
        self.children: list[Child] = []
        self._say = say
        self._logs = logs
        self._selector = selectors.DefaultSelector()
        self._signals = 0

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        grace_seconds: float = 10.0,
        stage: int = 0,
    ) -> Child:
        """Starts a child and returns at once.

        Args:
            environment: the whole of it.
        """
        child = Child(name, command, environment, grace_seconds, stage)
        self.children.append(child)
        self._spawn(child)
        return child

    def ended(self) -> list[Child]:
        """Children that are not running now."""
        return [child for child in self.children if child.process is None or child.process.poll() is not None]

    def keep_going(self) -> bool:
        """Blocks until SIGTERM or SIGINT, starting again what ends by itself.

        Returns:
            Whether we were asked to stop; False when a child failed `TRIES` times in a row.
        """
        with self._hearing():
            while not self._signals:
                self._listen(_LOOK_SECONDS)
                for child in self.children:
                    if not self._revive(child):
                        return False
        return True

    def stop(self) -> None:
        """Ends all children, those of higher stages first, each with its grace. A signal now means: no grace."""
        with self._hearing():
            for stage in sorted({child.stage for child in self.children}, reverse=True):
                self._end([child for child in self.children if child.stage == stage])
        for child in self.children:
            self._hang_up(child)
        self._selector.close()

    def last_words(self, child: Child, lines: int = 15) -> str:
        """The end of a child's log file."""
        if self._logs is None:
            return ""
        with contextlib.suppress(OSError):
            return "\n".join(_log(self._logs, child).read_text("utf-8", errors="replace").splitlines()[-lines:])
        return ""

    def _spawn(self, child: Child) -> None:
        target = subprocess.PIPE if self._logs is None else _log(self._logs, child).open("ab")
        try:
            child.process = subprocess.Popen(
                child.command,
                env=dict(child.environment),
                stdin=subprocess.DEVNULL,
                stdout=target,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(),  # noqa: PLW1509  one system call, prepared before the fork
            )
        finally:
            if not isinstance(target, int):
                target.close()
        child.started = time.monotonic()
        if child.process.stdout is not None:
            os.set_blocking(child.process.stdout.fileno(), False)
            self._selector.register(child.process.stdout, selectors.EVENT_READ, child)

    def _listen(self, seconds: float) -> None:
        """Passes on what children say, for up to `seconds`; a signal ends the wait."""
        if not self._selector.get_map():
            time.sleep(seconds)
            return
        for key, _ in self._selector.select(seconds):
            if isinstance(key.data, Child):
                self._read(key.data)
            else:
                os.read(key.fd, 512)

    def _read(self, child: Child) -> bool:
        """Passes on what a child has said; whether there may be more."""
        stdout = child.process.stdout if child.process is not None else None
        if stdout is None or stdout.closed:
            return False
        try:
            data = os.read(stdout.fileno(), 65_536)
        except BlockingIOError:
            return False
        *lines, child.rest = (child.rest + data).split(b"\n")
        if not data:
            self._selector.unregister(stdout)
            stdout.close()
            if child.rest:
                lines, child.rest = [*lines, child.rest], b""
        for line in lines:
            self._say(child.name, line.decode("utf-8", errors="replace"))
        return bool(data)

    def _hang_up(self, child: Child) -> None:
        """Passes on a child's last words and closes the line, which something that it left behind may still hold."""
        while self._read(child):
            pass
        stdout = child.process.stdout if child.process is not None else None
        if stdout is not None and not stdout.closed:
            self._selector.unregister(stdout)
            stdout.close()

    def _revive(self, child: Child) -> bool:
        """Starts an ended child again when its time has come; False when that makes no sense any more."""
        if child.process is not None:
            status = child.process.poll()
            if status is None:
                return True
            self._hang_up(child)
            lived = time.monotonic() - child.started
            child.short_lives = 0 if lived >= STEADY_SECONDS else child.short_lives + 1
            if child.short_lives >= TRIES:
                self._say(child.name, f"ended {child.short_lives} times right after its start; giving up")
                return False
            wait = 0.0 if lived >= STEADY_SECONDS else 2.0 ** (child.short_lives - 1)
            self._say(child.name, f"ended with status {status}; started again in {wait:g} s")
            child.process, child.again_at = None, time.monotonic() + wait
        if time.monotonic() >= child.again_at:
            self._spawn(child)
        return True

    def _end(self, children: Sequence[Child]) -> None:
        running = {child: child.process for child in children if child.process is not None}
        for process in running.values():
            _signal(process, signal.SIGTERM)
        begun = time.monotonic()
        before = self._signals
        for child, process in running.items():
            while process.poll() is None:
                self._listen(0.02)
                over = time.monotonic() - begun > child.grace_seconds
                if over or self._signals > before:
                    self._say(child.name, "did not end in time and is killed" if over else "is killed")
                    _signal(process, signal.SIGKILL, group=True)
                    process.wait()
            self._listen(0)

    @contextlib.contextmanager
    def _hearing(self) -> Iterator[None]:
        """Counts SIGTERM and SIGINT, and lets each of them end a wait, until the block ends."""

        def heard(_number: int, _frame: FrameType | None) -> None:
            self._signals += 1

        ear, mouth = os.pipe()
        for end in (ear, mouth):
            os.set_blocking(end, False)
        self._selector.register(ear, selectors.EVENT_READ, None)
        woken = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
        before = {number: signal.signal(number, heard) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, action in before.items():
                signal.signal(number, action)
            signal.set_wakeup_fd(woken)
            self._selector.unregister(ear)
            os.close(ear)
            os.close(mouth)


def python_environment(more: Mapping[str, str]) -> dict[str, str]:
    """Our own environment with `more`, for a child that is Python: unbuffered, finding what we find."""
    return {**os.environ, "PYTHONUNBUFFERED": "1", **more}


def celeriac_command(*words: str) -> list[str]:
    """A `celeriac` command with the Python that runs us, whatever is on PATH."""
    return [sys.executable, "-m", "scheduler.cli", *words]


def _log(directory: Path, child: Child) -> Path:
    return directory / f"{child.name}.log"


def _signal(process: subprocess.Popen[bytes], number: int, *, group: bool = False) -> None:
    """To a child of ours, or to the group it leads; harmless when there is nobody any more."""
    if process.poll() is None:  # not reaped yet, so its number is still its own
        with contextlib.suppress(ProcessLookupError):
            if group:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
