"""What we ask Redis about itself: is it new enough, does it keep what it acknowledged, what time is it there?

Reads only, and nothing but INFO and TIME. How often the append-only file reaches the disk is not in there: that alone
takes CONFIG GET, which `celeriac doctor` and strict starts try; a Redis that hides it is described as far as it goes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..errors import StoreFull
from .connection import denial
from .keys import Keys

OLDEST = (6, 2)


@dataclass(frozen=True, slots=True)
class Health:
    """One Redis server, as it describes itself. None: it would not say.

    Attributes:
        version: such as "7.0.15".  role: master or slave.
        append_only: whether it logs every write.  fsync: how often that reaches the disk, when that was asked.
        last_write_ok: whether its last append to that log succeeded.
        eviction: its policy when memory runs out.  memory_bytes, memory_limit_bytes: in use; 0 means no limit.
        clock_ms: its time minus ours, the way there and back taken into account.  answer_ms: that way.
    """

    version: str
    role: str | None
    append_only: bool | None
    fsync: str | None
    last_write_ok: bool | None
    eviction: str | None
    memory_bytes: int | None
    memory_limit_bytes: int | None
    clock_ms: int
    answer_ms: float

    def problems(self) -> list[tuple[str, str]]:
        """(what is wrong, what to do), worst first; empty when the promise holds on this server."""
        return [*self._lasting(), *self._passing()]

    def unsafe(self) -> list[tuple[str, str]]:
        """What a strict start refuses: problems that lie in the server's configuration, unknown ones included."""
        found = self._lasting()
        if self.append_only is None or self.eviction is None:
            found.append(
                ("the server does not say how it keeps data", "Let this user ask INFO, or start without strict.")
            )
        return found

    def _lasting(self) -> list[tuple[str, str]]:
        found = []
        number = tuple(int(part) for part in self.version.split(".")[:2] if part.isdigit())
        if number and number < OLDEST:
            found.append((f"Redis {self.version} is older than 6.2", "Update it."))
        if self.role not in (None, "master"):
            found.append((f"this Redis is a {self.role}, which takes no writes", "Name the primary in the URL."))
        if self.append_only is False:
            found.append(
                ("appendonly is off: a crash of Redis loses what it acknowledged", "Set `appendonly yes` (redis.conf).")
            )
        if self.fsync == "no":
            found.append(
                ("appendfsync is `no`: a power loss takes more than a second of work", "Set it to everysec or always.")
            )
        if self.eviction not in (None, "noeviction"):
            found.append((f"eviction policy {self.eviction} may throw runs away", "Set `maxmemory-policy noeviction`."))
        return found

    def _passing(self) -> list[tuple[str, str]]:
        found = []
        if self.last_write_ok is False:
            found.append(("the last write of the append-only file failed", "Look at its disk, and at Redis's log."))
        if self.memory_limit_bytes and self.memory_bytes and self.memory_bytes > 0.9 * self.memory_limit_bytes:
            found.append(("more than nine tenths of maxmemory are in use", "Raise maxmemory, or remove old runs."))
        return found


def look(client: Redis, *, fsync: bool = False) -> Health:
    """Ask a server about itself.

    Args:
        fsync: that too; takes CONFIG, which the users of `config/users.acl` do not have.

    Raises:
        redis.exceptions.RedisError: it does not answer.
    """
    before = time.time()
    seconds, micros = client.time()
    after = time.time()
    info = client.info()
    append_only = _word(info.get("aof_enabled"))
    return Health(
        version=str(info.get("redis_version", "")),
        role=_word(info.get("role")),
        append_only=None if append_only is None else append_only == "1",
        fsync=_fsync(client) if fsync else None,
        last_write_ok=None if "aof_last_write_status" not in info else info["aof_last_write_status"] == "ok",
        eviction=_word(info.get("maxmemory_policy")),
        memory_bytes=info.get("used_memory"),
        memory_limit_bytes=info.get("maxmemory"),
        clock_ms=round((seconds + micros / 1e6 - (before + after) / 2) * 1000),
        answer_ms=round((after - before) * 1000, 2),
    )


def store_full(client: Redis) -> StoreFull:
    """The error of a client whom Redis refused a write for want of memory, with its figures if it tells them."""
    try:
        said: Any = client.info("memory")
        used, most = int(said["used_memory"]), int(said["maxmemory"])
    except (RedisError, KeyError, OSError):
        return StoreFull()
    return StoreFull(used_bytes=used, limit_bytes=most, max_bytes=most)


def live_schedulers(client: Redis, keys: Keys) -> dict[str, int]:
    """Schedulers whose membership has not run out: id -> end of it, ms."""
    seconds, micros = client.time()
    now = int(seconds) * 1000 + int(micros) // 1000
    found: Any = client.zrangebyscore(keys.schedulers, now, "+inf", withscores=True)
    return {name.decode(): int(end) for name, end in found}


def connection_problem(error: Exception) -> str:
    """What a connection said, in one line, for an error of the Redis client that means "no answer"; else ""."""
    stands_by = isinstance(error, ResponseError) and str(error).startswith("MASTERDOWN")
    if stands_by or denial(error) or isinstance(error, RedisConnectionError | RedisTimeoutError):
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _word(value: Any) -> str | None:
    return None if value is None else str(value)


def _fsync(client: Redis) -> str | None:
    """Its `appendfsync`; None where CONFIG is forbidden or renamed, as hosted servers do."""
    try:
        found: Any = client.config_get("appendfsync")
    except RedisError:
        return None
    return next((it.decode() if isinstance(it, bytes) else str(it) for it in found.values()), None)
