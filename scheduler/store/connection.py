"""Connections to Redis, as every process of celeriac opens them."""

from __future__ import annotations

from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

SOCKET_TIMEOUT_SECONDS = 8.0
"""A silent connection is dropped after this; blocking reads ask for less (BLOCK_SECONDS)."""
BLOCK_SECONDS = 5.0

UNREACHABLE = (RedisConnectionError, RedisTimeoutError, ConnectionError, OSError)
"""What a call raises when Redis cannot be reached. All are transient for us: wait, connect, read again."""
REFUSED = (RedisError,)
"""What a call raises when Redis answers, but not as wanted: out of memory, no permission, a key of another type."""


def connect(url: str, *, timeout_seconds: float = SOCKET_TIMEOUT_SECONDS) -> Redis:
    """A client for `url` that never repeats a command by itself: what to do then is its caller's knowledge.

    Args:
        url: redis://, rediss:// or unix://; a broker's redis+socket:// is understood too.
        timeout_seconds: longest wait for an answer, and for a connection.
    """
    url, options = _options(url, timeout_seconds)
    client: Redis = Redis.from_url(url, retry=Retry(NoBackoff(), 0), **options)
    return client


def connect_async(url: str, *, timeout_seconds: float = SOCKET_TIMEOUT_SECONDS) -> AsyncRedis:
    """The same for one event loop, and one connection only; close it there with `aclose()`."""
    url, options = _options(url, timeout_seconds)
    retry = AsyncRetry(NoBackoff(), 0)
    client: AsyncRedis = AsyncRedis.from_url(url, single_connection_client=True, retry=retry, **options)
    return client


def _options(url: str, timeout_seconds: float) -> tuple[str, dict[str, Any]]:
    if url.startswith("redis+socket://"):
        url = "unix://" + url.removeprefix("redis+socket://").replace("virtual_host=", "db=")
    options: dict[str, Any] = {"socket_timeout": timeout_seconds, "protocol": 2}
    if not url.startswith("unix://"):
        options |= {"socket_connect_timeout": 3.0, "socket_keepalive": True}
    return url, options
