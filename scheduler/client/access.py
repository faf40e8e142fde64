"""A client's way to the store: connections made when first needed, errors put into words, logs followed.

One per `Client`. Threads share its connection pool (a blocking read takes one connection for itself), coroutines of one
event loop share one reader of logs. A child process may go on using it after a fork.
"""

from __future__ import annotations

import asyncio
import math
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ..errors import (
    CeleriacError,
    RunNotFound,
    SettingsError,
    StoreError,
    StoreUnreachable,
    escaped,
    shown,
)
from ..store.connection import DISK, FULL, REFUSED, UNREACHABLE, connect, refusal
from ..store.follow import ENTRIES_AT_ONCE, Entries, LogReader
from ..store.health import store_full
from ..store.runs import Runs, connect_runs
from ..wire import RunId

if TYPE_CHECKING:
    from ..settings import Settings

T = TypeVar("T")

ARCHIVED_AT_ONCE = 8
"""Archived runs that a client keeps in memory."""


class Access:
    """The store of one installation.

    Args:
        url: of its Redis.
        namespace: which installation there.
        shards: counts only when the store is new.
        settings: where queue classes are declared, when that is known.
        archive_url: where ended runs go that are not in Redis any more, when that is known.
    """

    def __init__(
        self, url: str, namespace: str, shards: int, settings: Settings | None = None, archive_url: str | None = None
    ) -> None:
        self.url = url
        self.namespace = namespace
        self.settings = settings
        self._shards = shards
        self._archive_url = archive_url
        self._archived: dict[str, Runs] = {}
        self._lock = threading.Lock()
        self._runs: Runs | None = None
        self._readers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LogReader] = weakref.WeakKeyDictionary()
        try:
            self._client = connect(url)
        except ValueError as wrong:
            raise SettingsError("redis_url", f"{shown(self.shown_url)}: {wrong}", "Write redis://host:6379/0") from None

    @property
    def shown_url(self) -> str:
        """The URL without its password."""
        from ..settings import redacted

        return redacted(self.url)

    @property
    def runs(self) -> Runs:
        """The runs of this installation. Asks the store once how many shards it has."""
        found = self._runs
        if found is None:
            with self._lock:
                found = self._runs
                if found is None:
                    found = connect_runs(self._client, self.namespace, self._shards)
                    if self.settings is not None:
                        found.submit.memory_guard = self.settings.memory_guard
                    self._runs = found
        return found

    def runs_of(self, run: RunId) -> Runs:
        """Where a run is read: the store, or its archive once it was found there."""
        return self._archived.get(run) or self.runs

    def reading(self, run: RunId, look: Callable[[Runs], T]) -> T:
        """What `look` finds of a run in the store, else in the archive.

        Raises:
            RunArchived: it was removed, and is not in an archive known here.
            RunNotFound: there is no such run.
        """
        try:
            return look(self.runs_of(run))
        except RunNotFound:
            return look(self._unshelved(run))

    def _unshelved(self, run: RunId) -> Runs:
        from ..archive import archived_run

        if run in self._archived:
            raise RunNotFound(run)
        found = archived_run(self.runs, self._archive_url, run)
        while len(self._archived) >= ARCHIVED_AT_ONCE:
            self._archived.pop(next(iter(self._archived)), None)
        self._archived[run] = found
        return found

    def is_archived(self, run: RunId) -> bool:
        """Whether a run is read from the archive."""
        return run in self._archived

    def forget(self, run: RunId) -> None:
        """Look for a run in the store first again."""
        self._archived.pop(run, None)

    def reach(self, call: Callable[[], T]) -> T:
        """What `call` returns; errors of the connection as the caller knows them.

        Raises:
            StoreUnreachable: no answer.
            StoreError: an answer, but not one that helps.
        """
        try:
            return call()
        except CeleriacError:
            raise
        except (*UNREACHABLE, *REFUSED) as error:
            raise self.told(error) from error

    def told(self, error: BaseException) -> StoreError:
        """An error of the connection in our words."""
        reason = str(error) or type(error).__name__
        if isinstance(error, UNREACHABLE):
            return StoreUnreachable(self.shown_url, reason)
        where = escaped(self.shown_url, 200)
        why = refusal(error)
        if why == FULL:
            return store_full(self._client)
        if why == DISK:
            return StoreError(
                f"Redis at {where} cannot write to its disk, so it takes no writes; nothing was stored. Make room on "
                f"that disk; Redis goes on by itself ({escaped(reason, 300)})."
            )
        return StoreError(f"Redis at {where} refused: {escaped(reason, 300)}. `celeriac doctor` tells what it lacks.")

    def follow(self, run: RunId, after: str, seconds: float, *, nodes: bool = True) -> Entries:
        """Entries of a run's log after an id; waits up to `seconds` for one, not at all when that is 0.

        Args:
            nodes: see Runs.log.
        """
        block_ms = math.ceil(seconds * 1000) or None
        return self.runs_of(run).log(run, after, count=ENTRIES_AT_ONCE, block_ms=block_ms, nodes=nodes)

    async def afollow(self, run: RunId, after: str, seconds: float) -> Entries:
        """The same for a coroutine; all those of one event loop share one blocking read."""
        if seconds <= 0 or self.is_archived(run):
            return await asyncio.to_thread(self.follow, run, after, 0)
        return await (await self._reader()).read(run, after, seconds)

    async def _reader(self) -> LogReader:
        loop = asyncio.get_running_loop()
        found = self._readers.get(loop)
        if found is None:
            runs = await asyncio.to_thread(lambda: self.runs)
            found = self._readers.setdefault(loop, LogReader(self.url, runs))
        return found

    def close(self) -> None:
        """Closes what threads use; what a loop uses closes soon after its last waiting coroutine."""
        self._client.close()

    async def aclose(self) -> None:
        """Closes everything, the reader of this event loop included."""
        reader = self._readers.pop(asyncio.get_running_loop(), None)
        if reader is not None:
            await reader.close()
        await asyncio.to_thread(self.close)
