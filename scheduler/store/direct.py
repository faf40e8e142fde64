"""Commands to Redis past the layers of redis-py that time, watch and repeat them: a third of their CPU.

For what is called at every turn of a scheduler and for every attempt of a worker. Its connections, its parser and its
errors are redis-py's.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import hiredis
from redis import Redis
from redis.exceptions import ResponseError

Part = str | bytes | int | float
Command = tuple[Part, ...]

LOOKED_AT_SECONDS = 1.0
"""How often a pool looks whether a connection is still what it should be, at a third of what a short command costs."""
_kept: WeakKeyDictionary[Any, list[tuple[Any, float, int]]] = WeakKeyDictionary()
"""Pool -> (connection between two uses, until when it need not be looked at, the process that it belongs to)."""


def _taken(pool: Any) -> tuple[Any, float]:
    """A connection for one use, and until when it may be kept without another look."""
    now, mine = time.monotonic(), os.getpid()
    kept = _kept.setdefault(pool, [])
    while kept:
        connection, until, owner = kept.pop()
        if owner != mine:  # we were forked, and it is our parent's
            continue
        if now < until and not _has_news(connection):
            return connection, until
        pool.release(connection)
    return pool.get_connection(), now + LOOKED_AT_SECONDS


def _has_news(connection: Any) -> bool:
    """Whether a connection that waits for nothing can be read: its server has closed it, as a rule. A microsecond."""
    if connection._sock is None:  # it connects again by itself
        return False
    look = select.poll()
    look.register(connection._sock, select.POLLIN)
    return bool(look.poll(0))


class Line:
    """A connection of a pool, for one user at a time; `keep` or `drop` it in the end.

    Attributes:
        connection: redis-py's.
    """

    __slots__ = ("_pool", "_until", "connection")

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.connection, self._until = _taken(pool)

    def keep(self) -> None:
        """For whoever asks next: no answer is still to come."""
        _kept[self._pool].append((self.connection, self._until, os.getpid()))

    def drop(self) -> None:
        """An answer may still come, and would be taken for that of the next command."""
        self.connection.disconnect()
        self._pool.release(self.connection)


class Sent:
    """Commands that were sent, and whose answers are still to be read. Each is read once.

    Args:
        count: of commands.
    """

    __slots__ = ("_count", "_line")

    def __init__(self, line: Line, count: int) -> None:
        self._line = line
        self._count = count

    def answers(self, *, raising: bool = True) -> list[Any]:
        """What Redis has answered, as it gives it: bytes, numbers, lists; a hash is a flat list of fields and values.

        Args:
            raising: an error that Redis answers is raised, once all answers are read; else it stands among them.

        Raises:
            redis.exceptions.RedisError: no answer, and nothing is known of what was done; or, `raising`, the first
                error.
        """
        found: list[Any] = []
        broken: ResponseError | None = None
        read = self._line.connection.read_response
        try:
            for _ in range(self._count):
                try:
                    found.append(read())
                except ResponseError as error:
                    broken = broken or error
                    found.append(error)
        except BaseException:
            self._line.drop()
            raise
        self._line.keep()
        if broken is not None and raising:
            raise broken
        return found


def send(client: Redis, commands: Sequence[Command]) -> Sent:
    """Send commands on a connection of the client's pool, which is theirs until their answers are read.

    Raises:
        redis.exceptions.RedisError: nothing is known of what was done.
    """
    line = Line(client.connection_pool)
    try:
        packed = [hiredis.pack_command(it) for it in commands]  # type: ignore[arg-type]  # the stub means any length
        line.connection.send_packed_command([b"".join(packed)])
    except BaseException:
        line.drop()
        raise
    return Sent(line, len(commands))


def exchange(client: Redis, commands: Sequence[Command], *, raising: bool = True) -> list[Any]:
    """Send commands and read their answers: one round trip; see `Sent.answers`."""
    return send(client, commands).answers(raising=raising)


def hashes(client: Any, keys: Sequence[str]) -> list[dict[bytes, bytes]]:
    """What these keys hold, one HGETALL each, in one round trip; {} for one that is not there.

    Args:
        client: of Redis, or one that has an archived run in memory.
    """
    if not isinstance(client, Redis):
        return [client.hgetall(key) for key in keys]
    answers = exchange(client, [("HGETALL", key) for key in keys]) if keys else []
    return [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in answers]
