"""Messages that a worker cannot make a task of: rejected, told to the scheduler, and never its death.

Celery has four ways to turn a message down, and a few shapes on which it dies instead. Each ends here: the message
leaves the queue, an attempt that it carried counts as lost, and the message itself goes to the dead letters (at most
DEAD_A_SECOND of them; of a flood the rest is counted: the next letter says it, and so does what the worker announces).
"""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable
from typing import Any

from celery.exceptions import NotRegistered

from ..wire import DeadMessage
from .endings import ending, endings_of, lost
from .installation import Installation, installation_of
from .report import tell, tell_dead
from .survival import refused

log = logging.getLogger(__name__)

DEAD_A_SECOND = 50
DEAD_BYTES_A_SECOND = 1_000_000
KEPT_BYTES = 32 * 1024
"""Of one message's body, and of its headers and properties together."""


class Allowance:
    """How many rejected messages may be told of: so many a second, and so many bytes; the rest is counted.

    Args:
        now: a clock in seconds, for tests.
    """

    def __init__(self, now: Any = time.monotonic) -> None:
        self._now = now
        self._since = 0.0
        self._told = self._bytes = 0
        self.passed_over = 0

    def take(self, size: int) -> int | None:
        """How many were passed over since the last that was told of, if this one may be; else None."""
        now = self._now()
        if now - self._since >= 1:
            self._since, self._told, self._bytes = now, 0, 0
        if self._told >= DEAD_A_SECOND or self._bytes + size > DEAD_BYTES_A_SECOND:
            self.pass_over()
            return None
        self._told += 1
        self._bytes += size
        passed, self.passed_over = self.passed_over, 0
        return passed

    def pass_over(self, before: int = 0) -> None:
        """Nobody is told of this one after all, nor of those before it that it would have told of."""
        self.passed_over += 1 + before


_allowance = Allowance()


def surviving_consumer(cls: type) -> type:
    """Celery's consumer, with all its ways to turn a message down leading here."""
    return cls if issubclass(cls, _Consumer) else type(cls.__name__, (_Consumer, cls), {"__module__": __name__})


class _Strategies(dict[Any, Any]):
    """Task name -> strategy. A name that is no text is unknown like any other."""

    def __getitem__(self, name: Any) -> Any:
        if not isinstance(name, str):
            raise KeyError(name)
        return super().__getitem__(name)


class _Consumer:
    """What is laid over Celery's consumer."""

    Strategies = _Strategies
    app: Any
    hostname: str
    connection_errors: tuple[type[BaseException], ...]

    def on_unknown_message(self, body: Any, message: Any) -> None:
        base: Any = super()
        self._turn_down(message, lambda: base.on_unknown_message(body, message))
        self._dead(message, "has no task name: it is not a message of Celery's")

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        base: Any = super()
        self._turn_down(message, lambda: base.on_invalid_task(body, message, exc))
        self._dead(message, f"cannot be a task: {type(exc).__name__}: {exc}")

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        base: Any = super()
        self._turn_down(message, lambda: base.on_decode_error(message, exc))
        self._dead(message, f"cannot be decoded: {type(exc).__name__}: {exc}")

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        base: Any = super()
        self._turn_down(message, lambda: base.on_unknown_task(body, message, exc))
        name = message.headers.get("task") if isinstance(message.headers, dict) else None
        self._dead(message, f"no task of this name is registered here: {name!r:.200}", NotRegistered(name))

    def _turn_down(self, message: Any, celery_does: Callable[[], None]) -> None:
        """Celery's own way; where the message is of a shape that it cannot even turn down, the message is rejected."""
        try:
            celery_does()
        except self.connection_errors:
            raise
        except Exception as problem:  # noqa: BLE001  it is made of what stands in the message
            log.error("Received a message that cannot even be turned down in Celery's way: %r", problem)
            if not message.acknowledged:
                message.reject_log_error(log, self.connection_errors)

    def _dead(self, message: Any, cause: str, told: BaseException | None = None) -> None:
        """Tell of a message that has been turned down. Never raises: the worker goes on."""
        installation = installation_of(self.app)
        if installation is None:
            return
        try:
            headers = message.headers if isinstance(message.headers, dict) else {}
            id_ = headers.get("id")
            what = lost("MessageRejected", cause) if told is None else ending(told)
            for attempt, ended in endings_of(id_, headers.get("celeriac"), None, what):
                tell(installation, attempt, ended)
            letter(installation, message, cause, self.hostname)
        except Exception:  # the message is off the queue, and that is what matters
            log.exception("a rejected message could not be told of")


def letter(installation: Installation, message: Any, cause: str, worker: str) -> None:
    """A rejected message, on its way to the dead letters of its queue's or its attempt's shard."""
    body = message.body
    raw = body if isinstance(body, bytes) else str(body if body is not None else "").encode("utf-8", "replace")
    described = {"headers": message.headers, "properties": _plain(message.properties)}
    try:
        size = len(json.dumps(described, default=str))
    except (ValueError, TypeError, RecursionError):
        size = KEPT_BYTES + 1
    whole = size <= KEPT_BYTES
    headers = message.headers if isinstance(message.headers, dict) else {}
    info = message.delivery_info if isinstance(message.delivery_info, dict) else {}
    _tell(
        installation,
        DeadMessage(
            cause=cause[:2_000],
            queue=str(info.get("routing_key") or "")[:200],
            worker=worker,
            task=str(headers.get("task") or "")[:256],
            id=str(headers.get("id") or "")[:256],
            form="kombu",
            content_type=_short(message.content_type),
            content_encoding=_short(message.content_encoding),
            headers=message.headers if whole and isinstance(message.headers, dict) else {},
            properties=described["properties"] if whole else {},
            body=base64.b64encode(raw[:KEPT_BYTES]).decode(),
            size=len(raw),
            cut=len(raw) > KEPT_BYTES or not whole or not isinstance(message.headers, dict | None),
        ),
    )


def not_a_message(installation: Installation, queue: str, entry: bytes, problem: str) -> None:
    """An entry of a queue in Redis that kombu cannot have made; as `broker.survive` wants it."""
    body = base64.b64encode(entry[:KEPT_BYTES]).decode()
    _tell(
        installation,
        DeadMessage(
            cause=f"is no message: {problem}"[:2_000],
            queue=queue[:200],
            form="raw",
            body=body,
            size=len(entry),
            cut=len(entry) > KEPT_BYTES,
        ),
    )


def _tell(installation: Installation, dead: DeadMessage) -> None:
    passed_over = _allowance.take(len(dead.body))
    if passed_over is not None and not tell_dead(installation, dead._replace(passed_over=passed_over)):
        _allowance.pass_over(passed_over)
        passed_over = None
    if passed_over is None:
        refused["passed over"] = refused.get("passed over", 0) + 1


def _short(text: Any) -> str | None:
    return None if text is None else str(text)[:200]


def _plain(properties: Any) -> dict[str, Any]:
    """The properties that another publish needs; where it was delivered and under which tag is the broker's affair."""
    wanted = ("correlation_id", "reply_to", "priority", "expiration", "message_id", "type", "app_id")
    found = properties if isinstance(properties, dict) else {}
    return {name: found[name] for name in wanted if found.get(name) is not None}
