"""Connections to Redis, as every process of celeriac opens them.

A URL may name sentinels instead of a server: each new connection then asks them where the master is, so a process
finds the new one after a failover by connecting again, which it does after any lost connection.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelConnectionPool
from redis.asyncio.sentinel import SentinelManagedConnection as AsyncMasterConnection
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedConnection

from ..sentinel import SentinelUrl, is_sentinel

SOCKET_TIMEOUT_SECONDS = 7.0
"""A silent connection is dropped after this; blocking reads ask for less (BLOCK_SECONDS).

Twice this is below the 15 s in which a half-open network must be noticed: a scheduler may wait for its broker first.
"""
SENTINEL_SECONDS = 1.0
"""Longest wait for one sentinel; then the next is asked."""
BLOCK_SECONDS = 5.0

UNREACHABLE = (RedisConnectionError, RedisTimeoutError, ConnectionError, OSError)
"""What a call raises when Redis cannot be reached. All are transient for us: wait, connect, read again."""
REFUSED = (RedisError,)
"""What a call raises when Redis answers, but not as wanted: out of memory, no permission, a key of another type."""

FULL, DISK = "full", "disk"
"""Why a healthy connection takes no writes for now: maxmemory is reached; the disk of the append-only file fails."""


def refusal(error: BaseException) -> str:
    """FULL or DISK when Redis takes no writes for now and reading goes on; "" for every other error.

    Redis 7.0 answers OOM in its own words, 6.2 inside those of a script, so the text decides and not the class.
    Such a command has done nothing and may be repeated as it is.

    >>> refusal(RedisError("OOM command not allowed when used memory > 'maxmemory'.")), refusal(RedisError("ERR"))
    ('full', '')
    """
    if not isinstance(error, RedisError):
        return ""
    text = str(error)
    if "command not allowed when used memory" in text:
        return FULL
    return DISK if "MISCONF" in text else ""


LOGIN, RIGHTS = "login", "rights"
"""Why Redis does nothing for us although it answers: user or password is not right; the user may not do this."""


def denial(error: BaseException) -> str:
    """LOGIN or RIGHTS when it takes a person to change something before Redis does as asked; "" for every other error.

    >>> denial(AuthenticationError("invalid username-password pair")), denial(RedisError("ERR"))
    ('login', '')
    """
    if isinstance(error, AuthenticationError | AuthorizationError):
        return LOGIN
    if not isinstance(error, RedisError):
        return ""
    text = str(error)
    if text.startswith(("NOAUTH", "WRONGPASS")):
        return LOGIN
    # Inside a script Redis 6.2 has no class for it
    denied = isinstance(error, NoPermissionError) or "NOPERM" in text or "user executing the script can't" in text
    return RIGHTS if denied else ""


def connect(url: str, *, timeout_seconds: float = SOCKET_TIMEOUT_SECONDS) -> Redis:
    """A client for `url` that never repeats a command by itself: what to do then is its caller's knowledge.

    Args:
        url: redis://, rediss://, unix:// or sentinel://; a broker's redis+socket:// is understood too. TLS checks the
            server's certificate and name, unless the URL says ssl_cert_reqs=none.
        timeout_seconds: longest wait for an answer, and for a connection.

    Raises:
        ValueError: that is no URL of a Redis; says nothing of what is in it.
    """
    if is_sentinel(url):
        it = SentinelUrl.parse(url)
        once = Retry(NoBackoff(), 0)
        watched = Sentinel(it.hosts, sentinel_kwargs=_asking(it) | {"retry": once})
        found: Redis = watched.master_for(
            it.master_name,
            connection_pool_class=_Pool,
            connection_class=_Master,
            retry=once,
            **_of_master(it, timeout_seconds),
        )
        return found
    url, options = _options(url, timeout_seconds)
    with _no_part_told():
        client: Redis = Redis.from_url(url, retry=Retry(NoBackoff(), 0), **options)
    return client


def connect_async(url: str, *, timeout_seconds: float = SOCKET_TIMEOUT_SECONDS) -> AsyncRedis:
    """The same for one event loop, and one connection only; close it there with `aclose()`."""
    if is_sentinel(url):
        it = SentinelUrl.parse(url)
        once = AsyncRetry(NoBackoff(), 0)
        watched = AsyncSentinel(it.hosts, sentinel_kwargs=_asking(it) | {"retry": once})
        found: AsyncRedis = watched.master_for(
            it.master_name,
            connection_pool_class=_AsyncPool,
            connection_class=_AsyncMaster,
            retry=once,
            **_of_master(it, timeout_seconds),
        )
        found.single_connection_client = True
        return found
    url, options = _options(url, timeout_seconds)
    retry = AsyncRetry(NoBackoff(), 0)
    with _no_part_told():
        client: AsyncRedis = AsyncRedis.from_url(url, single_connection_client=True, retry=retry, **options)
    return client


def _options(url: str, timeout_seconds: float) -> tuple[str, dict[str, Any]]:
    if url.startswith("redis+socket://"):
        url = "unix://" + url.removeprefix("redis+socket://").replace("virtual_host=", "db=")
    options: dict[str, Any] = {"socket_timeout": timeout_seconds, "protocol": 2}
    if not url.startswith("unix://"):
        options |= {"socket_connect_timeout": 3.0, "socket_keepalive": True}
    if url.startswith("rediss://"):
        options["ssl_check_hostname"] = True
        url = re.sub(r"(?<=[?&]ssl_cert_reqs=)CERT_(\w+)", lambda found: found[1].lower(), url)  # kombu's spelling
    return url, options


@contextlib.contextmanager
def _no_part_told() -> Iterator[None]:
    """Keeps the library's own words to itself: where a password breaks a URL, they quote it."""
    try:
        yield
    except ValueError:
        raise ValueError(
            "is no URL of a Redis; write redis://user:password@host:6379/0, with /, @, : and % in the password "
            "as %2F, %40, %3A and %25"
        ) from None


def _asking(it: SentinelUrl) -> dict[str, Any]:
    """How sentinels are asked."""
    limits = {"socket_timeout": SENTINEL_SECONDS, "socket_connect_timeout": SENTINEL_SECONDS, "protocol": 2}
    return {**limits, **it.sentinel_credentials}


def _of_master(it: SentinelUrl, timeout_seconds: float) -> dict[str, Any]:
    """How the master is spoken to, once it is found."""
    return {**_options("redis://", timeout_seconds)[1], "db": it.db, "username": it.username, "password": it.password}


class _Master(SentinelManagedConnection):
    """A connection to whoever is the master when it is made. One that turns out to be a replica is left at once."""

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().read_response(*args, **kwargs)
        except ResponseError as refused:
            if not _is_read_only(refused):
                raise
            self.disconnect()  # type: ignore[no-untyped-call]  # redis-py has no types there
            raise RedisConnectionError("the former master is a replica now") from refused


class _AsyncMaster(AsyncMasterConnection):
    """The same for an event loop."""

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)
        except ResponseError as refused:
            if not _is_read_only(refused):
                raise
            await self.disconnect()
            raise RedisConnectionError("the former master is a replica now") from refused


class _Pool(SentinelConnectionPool):
    """Connections to the master; whoever closes them closes those to the sentinels too."""

    def disconnect(self, inuse_connections: bool = True) -> None:
        super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                sentinel.connection_pool.disconnect()


class _AsyncPool(AsyncSentinelConnectionPool):
    """The same for an event loop."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.connection_pool.disconnect()


def _is_read_only(refused: ResponseError) -> bool:
    """Also where a script says so: before Redis 7 its error begins with the script's."""
    return "READONLY" in str(refused) or type(refused).__name__ == "ReadOnlyError"
