"""The logs of many runs, followed by one connection: how a thousand waiting coroutines cost one blocking read.

A `LogReader` belongs to one event loop. One task reads all logs that somebody waits for, with a single XREAD BLOCK;
whoever joins while it blocks lets it go by CLIENT UNBLOCK, so nothing is polled. The task ends, and closes
its connections, soon after nobody waits any more; it is started again by the next who does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from ..wire import RunId
from .connection import BLOCK_SECONDS, connect_async
from .runs import Runs

ENTRIES_AT_ONCE = 100
LINGER_SECONDS = 0.5
UNBLOCK_REFUSED_SECONDS = 0.2
"""Length of a blocking read where the server forbids CLIENT UNBLOCK; whoever joins waits that long at most."""

Entries = list[tuple[str, list[list[Any]]]]


def _order(entry: str) -> tuple[int, int]:
    instant, _, number = entry.partition("-")
    return int(instant), int(number or 0)


class LogReader:
    """Entries of runs' logs for the coroutines of one event loop.

    Args:
        url: of the store.
        runs: tells where a run's log is.
    """

    def __init__(self, url: str, runs: Runs) -> None:
        self._url = url
        self._runs = runs
        self._waiting: dict[str, dict[asyncio.Future[Entries], tuple[int, int]]] = {}
        self._joined = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._block_seconds = BLOCK_SECONDS

    async def read(self, run: RunId, after: str, timeout_seconds: float) -> Entries:
        """Entries after an entry's id, as soon as there are any; none when the time is up.

        Raises:
            redis.exceptions.RedisError, OSError: the connection was lost; ask again.
        """
        key = self._runs.keys.shard(self._runs.shard(run)).log(run)
        answer: asyncio.Future[Entries] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, {})[answer] = _order(after)
        self._joined.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve(), name="celeriac-log-reader")
        try:
            async with asyncio.timeout(timeout_seconds):
                return await answer
        except TimeoutError:
            return []
        finally:
            self._leave(key, answer)

    async def close(self) -> None:
        """Ends the task and its connections now."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    def _leave(self, key: str, answer: asyncio.Future[Entries]) -> None:
        waiting = self._waiting.get(key, {})
        waiting.pop(answer, None)
        if not waiting:
            self._waiting.pop(key, None)

    async def _serve(self) -> None:
        """Read and hand out until nobody has waited for LINGER_SECONDS; a lost connection is told to all who wait."""
        lost: Exception = RedisConnectionError("the reader of the runs' logs was closed")
        async with contextlib.AsyncExitStack() as stack:
            try:
                reader = await stack.enter_async_context(connect_async(self._url))
                control = await stack.enter_async_context(connect_async(self._url))
                number = int(await reader.client_id())
                while await self._somebody():
                    await self._once(reader, control, number)
            except Exception as found:  # noqa: BLE001 - whatever it was, those who wait must hear of it
                lost = found
            finally:  # before anything is awaited: whoever joins from here on starts a new task
                self._task = None
                waiting, self._waiting = self._waiting, {}
                for answers in waiting.values():
                    for answer in answers:
                        if not answer.done():
                            answer.set_exception(lost)

    async def _once(self, reader: Redis, control: Redis, number: int) -> None:
        self._joined.clear()
        reading = asyncio.create_task(self._read(reader))
        try:
            await self._let_go(reading, control, number)
        finally:
            if not reading.done():
                reading.cancel()
                await asyncio.wait({reading})
        self._hand_out(await reading)

    async def _somebody(self) -> bool:
        """Whether anybody waits. Those who were just answered get the chance to come back for more."""
        await asyncio.sleep(0)
        if not self._waiting:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_SECONDS):
                    await self._joined.wait()
        return bool(self._waiting)

    async def _read(self, reader: Redis) -> Any:
        streams: dict[Any, Any] = {}
        for key, answers in self._waiting.items():
            instant, number = min(answers.values())
            streams[key] = f"{instant}-{number}"
        return await reader.xread(streams, count=ENTRIES_AT_ONCE, block=int(self._block_seconds * 1000))

    async def _let_go(self, reading: asyncio.Task[Any], control: Redis, number: int) -> None:
        """Returns when the read is over; makes it so when somebody new waits for a log that it does not read."""
        joined = asyncio.create_task(self._joined.wait())
        try:
            await asyncio.wait({reading, joined}, return_when=asyncio.FIRST_COMPLETED)
            pause = 0.001
            while not reading.done():
                try:
                    await control.client_unblock(number)
                except ResponseError:
                    self._block_seconds = UNBLOCK_REFUSED_SECONDS
                    await asyncio.wait({reading})
                await asyncio.wait({reading}, timeout=pause)  # it may not have begun to block; then ask again
                pause = min(2 * pause, 0.1)
        finally:
            joined.cancel()

    def _hand_out(self, found: Any) -> None:
        for name, raw in found or ():
            waiting = self._waiting.get(name.decode(), {})
            entries = [(id_.decode(), json.loads(fields[b"moves"])) for id_, fields in raw]
            for answer, after in list(waiting.items()):
                news = [entry for entry in entries if _order(entry[0]) > after]
                if news and not answer.done():
                    answer.set_result(news)
                    del waiting[answer]
            if not waiting:
                self._waiting.pop(name.decode(), None)
