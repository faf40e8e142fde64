"""Workers without Celery: they read a message as any Celery worker would, claim, do what a test says, and report."""

from __future__ import annotations

import base64
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.service.transport import MemoryTransport, Outgoing
from scheduler.store.attempts import Attempts, Verdict
from scheduler.store.connection import connect
from scheduler.wire import Report, error_record

STANDARD, INTERACTIVE = "celeriac.standard-low", "celeriac.interactive-low"
"""Queues of two classes."""
_tokens = itertools.count()


@dataclass(frozen=True)
class Task:
    """An attempt as a worker sees it, from the message alone."""

    id: str
    executor: str
    args: list[Any]
    kwargs: dict[str, Any]
    headers: dict[str, Any]

    @property
    def node(self) -> str:
        """The user's key."""
        return str(self.headers["celeriac"]["node"])

    @property
    def attempt(self) -> int:
        """Counted from 1."""
        return int(self.headers["celeriac"]["attempt"])

    @classmethod
    def from_parts(cls, body: str, headers: Mapping[str, Any]) -> Task:
        """From a protocol 2 message."""
        args, kwargs, _embed = json.loads(body)
        return cls(headers["id"], headers["task"], args, kwargs, dict(headers))

    @classmethod
    def from_redis(cls, raw: bytes) -> Task:
        """From an entry of kombu's list."""
        message = json.loads(raw)
        return cls.from_parts(base64.b64decode(message["body"]).decode(), message["headers"])


@dataclass(frozen=True)
class Ending:
    """What becomes of an attempt: how it ends, and with what."""

    end: str = "succeeded"
    value: Any = None
    kind: str = "inline"
    error: dict[str, Any] | None = None
    retry_after_ms: int | None = None


def value(it: Any) -> Ending:
    """Succeeds with an output."""
    return Ending(value=it)


def failure(kind: str = "transient", message: str = "it broke", retry_after_ms: int | None = None) -> Ending:
    """Fails."""
    return Ending("failed", kind="none", error=error_record(kind, "Broken", message), retry_after_ms=retry_after_ms)


def loss() -> Ending:
    """Infrastructure takes it."""
    return Ending("lost", kind="none", error=error_record("lost", "WorkerLost", "killed", origin="infrastructure"))


def echo(task: Task) -> Ending:
    """Succeeds with its own inputs as output."""
    return value(task.kwargs)


Act = Callable[[Task], Ending | None]
"""What a worker does with a task; None keeps silent about it for ever."""


class Echo:
    """Claims tasks, acts, reports.

    Attributes:
        done: every task whose claim was granted, in order.
        refused: every task whose claim was not.
    """

    def __init__(self, attempts: Attempts, act: Act = echo, name: str = "echo") -> None:
        self.attempts = attempts
        self.act = act
        self.name = name
        self.done: list[Task] = []
        self.refused: list[Task] = []

    def nodes(self) -> list[str]:
        """Keys of the nodes done, in order."""
        return [task.node for task in self.done]

    def take(self, tasks: Iterable[Task]) -> None:
        """Claim, act on and report each task; all reports together."""
        reports: list[tuple[Report, bytes | None]] = []
        for task in tasks:
            [claim] = self.attempts.claim([task.id], self.name, f"{os.getpid()}x{next(_tokens)}")
            if claim.verdict is not Verdict.GRANTED:
                self.refused.append(task)
                continue
            self.done.append(task)
            ending = self.act(task)
            if ending is not None:
                reports.append(self.report(task.id, ending, claim.now_ms))
        self.attempts.report(reports)

    def report(self, id_: str, ending: Ending, claimed_at_ms: int | None = None) -> tuple[Report, bytes | None]:
        """The report of an ending, with its output."""
        output = None
        if ending.end == "succeeded" and ending.kind != "none":
            output = json.dumps(ending.value, ensure_ascii=False).encode()
            if ending.kind == "blob":
                key = self.attempts.put_blob(id_, output)
                output = json.dumps({"blob": key, "bytes": len(output), "sha256": ""}).encode()
        kind = ending.kind if ending.end == "succeeded" else "none"
        report = Report(id_, ending.end, self.name, claimed_at_ms, kind, ending.error, ending.retry_after_ms)
        return report, output


def tasks(memory: MemoryTransport) -> list[Task]:
    """What a broker without workers was sent."""
    return [Task.from_parts(body, headers) for _, body, headers in list(memory.sent)]


class AtOnce:
    """A transport that is its own worker: what is sent is done and reported before `send` returns."""

    def __init__(self, echo: Echo) -> None:
        self.echo = echo
        self.sent: list[str] = []

    def send(self, outgoing: Outgoing) -> None:
        """Do it."""
        parts = [template.for_kombu(letter)[:2] for template, letter in outgoing]
        tasks = [Task.from_parts(body, headers) for body, headers in parts]
        self.sent += [task.id for task in tasks]
        self.echo.take(tasks)

    def waiting(self, queue: str) -> frozenset[str] | None:
        """Nothing ever waits."""
        return frozenset()

    def depth(self, queue: str) -> int | None:
        """Nothing ever waits."""
        return 0

    def announce(self, events: list[dict[str, Any]]) -> bool:
        """To nobody."""
        return False

    def sweep(self, is_over: Callable[[str], bool]) -> int:
        """Nothing is kept."""
        return 0

    def close(self) -> None:
        """Nothing is open."""


class EchoWorker:
    """A worker in a thread: takes messages from Redis queues, `at_once` of them at most, until the block ends."""

    def __init__(
        self, url: str, queues: Iterable[str], act: Act = echo, *, namespace: str = "cel", at_once: int = 101
    ) -> None:
        self.client = connect(url)
        self.queues = list(queues)
        self.at_once = at_once
        self.echo = Echo(Attempts(connect(url), namespace), act)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="echo worker", daemon=True)
        self.broken: list[Exception] = []

    def __enter__(self) -> Echo:
        self._thread.start()
        return self.echo

    def __exit__(self, *_exc: object) -> None:
        self._stopping = True
        self._thread.join(20)
        assert not self._thread.is_alive()
        assert not self.broken

    def _run(self) -> None:
        try:
            while not self._stopping:
                found: Any = self.client.brpop(self.queues, timeout=0.1)
                if found:
                    more: Any = self.client.rpop(found[0].decode(), self.at_once - 1) or []
                    self.echo.take(map(Task.from_redis, [found[1], *more]))
        except Exception as broken:
            self.broken.append(broken)
            raise
