"""The archivist: one thread beside the loop that finds ended runs whose time has come and archives them.

It reads over a connection of its own and removes nothing itself: a run that lies in the archive, read back and found
whole, is handed to the loop, which removes it between two turns (retention.py). It asks Redis only when something can
be due: when the oldest ended run of a shard comes of age, when a run has ended while there is a budget of bytes, when a
shard was gained. It gives way to the loop after every line that it writes, and uses half of a core at most.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator

from ..archive import Archive
from ..errors import ArchiveError
from ..settings import Settings, redacted
from ..store.connection import REFUSED, UNREACHABLE, connect
from ..store.direct import Part
from ..store.ended import EndedRuns, Removal
from ..store.runs import Runs, connect_runs
from ..wire import RunId
from .budget import Budget
from .pauses import Pauses
from .standing import Standing, note

log = logging.getLogger("celeriac.scheduler")

HANDED_MOST = 100
"""Runs archived and not yet removed; then the archivist waits for the loop."""
LISTED = 50
PAUSE_SECONDS = 1.0
"""Shortest time between two looks that found nothing to do."""
TIDY_FIRST_SECONDS, TIDY_SECONDS = 60.0, 3600.0
LONGEST_SECONDS = 3600.0
AGAIN_SECONDS = (1.0, 300.0)
"""First and longest wait after the archive failed."""
ASIDE_SECONDS = 60.0
_REST_AFTER = 0.005


class Archivist:
    """The thread of one scheduler.

    Args:
        settings: redis_url must be set.
        counts: of the scheduler.
        archive: None: there is none; see `throws`.
        throws: ended runs go without being archived; without either nothing goes.

    Attributes:
        owned: shard -> epoch, of the shards to look after; the loop replaces it whole.
        ready: runs that are archived, for the loop to remove.
        wanted: runs that somebody wants archived now.
        working: whether there was something to do in the current look.
    """

    def __init__(self, settings: Settings, counts: Counter[str], archive: Archive | None, throws: bool) -> None:
        self.owned: dict[int, Part] = {}
        self.ready: deque[Removal] = deque()
        self.wanted: deque[RunId] = deque(maxlen=10_000)
        self.working = False
        self._settings = settings
        self._url = settings.redis_url or ""
        self._counts = counts
        self._archive = archive
        self._active = throws or archive is not None
        age = settings.retention_seconds
        self._age_seconds = float("inf") if age is None else age
        self._budget = None if settings.retention_bytes is None else Budget(settings.retention_bytes)
        self._handed: set[str] = set()
        self._removed: deque[Removal] = deque(maxlen=10 * HANDED_MOST)
        self._aside: dict[str, float] = {}
        self._look_at: dict[int, float] = {}
        self._unswept: set[int] = set()
        self._stirred: set[int] = set()
        self._tidy_at = time.monotonic() + TIDY_FIRST_SECONDS
        self._standing = Standing(counts, Pauses(*AGAIN_SECONDS))
        self._worked = 0.0
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._ended: EndedRuns | None = None
        self._thread = threading.Thread(target=self._run, name="celeriac-archivist", daemon=True)

    # -- from the loop ------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, seconds: float = 2.0) -> None:
        """End soon; what it is about is done again by whoever owns the shard then."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def wake(self) -> None:
        """Look now."""
        self._wake.set()

    def stir(self, shard: int) -> None:
        """A run of this shard has ended."""
        self._stirred.add(shard)
        if self._budget is not None or self._age_seconds < PAUSE_SECONDS:
            self._wake.set()

    def over(self, it: Removal, *, removed: bool = False) -> None:
        """A run that was handed out is removed, or stays."""
        if removed:
            self._removed.append(it)
        self._handed.discard(it.it.run)

    def reset(self) -> None:
        """Forget what was handed out."""
        self.owned = {}
        self.ready.clear()
        self._handed.clear()

    def leftovers(self, shard: int) -> None:
        """Something is to be swept in this shard."""
        self._unswept.add(shard)
        self._wake.set()

    # -- the thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                wait = self._look()
                if self.working:
                    self._standing.works(self._ended)
            except ArchiveError as broken:
                wait = self._standing.broken(self._ended, broken)
                self._look_at.clear()
            except (*UNREACHABLE, *REFUSED) as lost:
                log.debug("%s does not answer the archivist: %r", redacted(self._url), lost)
                self._forget()
                wait = AGAIN_SECONDS[0]
            except Exception:
                self._counts["crashes of the archivist"] += 1
                log.exception("the archivist stumbled; it goes on in a minute")
                self._forget()
                wait = ASIDE_SECONDS
            self.working = False
            if not self._wake.wait(min(wait, LONGEST_SECONDS)) or self._stop.is_set():
                continue
            self._wake.clear()
            shortest = self._standing.pauses.now or PAUSE_SECONDS
            while not self._stop.is_set() and (left := begun + shortest - time.monotonic()) > 0:
                self._wake.wait(left)
                self._wake.clear()
        self._forget()

    def _forget(self) -> None:
        """Close the connection; the next look opens another, and looks at every shard again."""
        if self._ended is not None:
            self._ended.client.close()
            self._ended = None
        self._look_at.clear()

    def _open(self) -> EndedRuns:
        if self._ended is None:
            runs: Runs = connect_runs(connect(self._url), self._settings.namespace, self._settings.shards)
            self._ended = EndedRuns(runs)
            if self._archive is not None or self._active:
                note(self._ended, archive="none" if self._archive is None else self._archive.place.shown)
        return self._ended

    def _look(self) -> float:
        """Do what is due; seconds until there may be more to do."""
        owned = dict(self.owned)
        if not owned:
            return LONGEST_SECONDS
        for shard in [it for it in self._look_at if it not in owned]:
            del self._look_at[shard]
        if 0 in owned and time.monotonic() >= self._tidy_at:
            self._tidy_at = time.monotonic() + TIDY_SECONDS
            self._open().tidy()
        self._sweep(owned)
        if not self._active:
            self.wanted.clear()
            return TIDY_FIRST_SECONDS
        ended = self._open()
        stirred = self._take_stirred(owned)
        for run in self._due(ended, owned, stirred):
            if self._stop.is_set():
                break
            while len(self._handed) >= HANDED_MOST and not self._stop.is_set():
                time.sleep(0.02)
            self._hand(ended, run, owned)
        return self._next()

    def _sweep(self, owned: dict[int, Part]) -> None:
        """Remove what runs that were forgotten have left; a shard that is not ours any more is its owner's affair."""
        for shard in self._unswept & owned.keys():
            self._unswept.discard(shard)  # first: the loop may add it again meanwhile
            try:
                self._open().sweep(shard, owned[shard])
            except BaseException:
                self._unswept.add(shard)
                raise

    def _take_stirred(self, owned: dict[int, Part]) -> set[int]:
        """Shards where runs have ended since the last look; the first of them tells when to look."""
        stirred, self._stirred = self._stirred, set()
        of_age = time.monotonic() + self._age_seconds
        for shard in stirred & owned.keys():
            self._look_at[shard] = min(self._look_at.get(shard, 0.0), of_age)
        return stirred

    def _next(self) -> float:
        if self.wanted or self._stirred:
            return 0.0
        soonest = min(self._look_at.values(), default=0.0)
        return max(soonest - time.monotonic(), 0.0 if self.working else PAUSE_SECONDS)

    def _due(self, ended: EndedRuns, owned: dict[int, Part], stirred: set[int]) -> Iterator[RunId]:
        """Runs to be archived now: those asked for, those of age, those beyond the budget."""
        while self.wanted:
            run = self.wanted.popleft()
            if self._archive is not None:  # nobody but time and budget throws runs away
                yield run
        looked = time.monotonic()
        shards = [shard for shard in owned if self._look_at.get(shard, 0.0) <= looked]
        if shards:
            now, lists = ended.oldest(shards, LISTED + len(self._handed) + len(self._aside))
            for shard, found in lists.items():
                self._look_at[shard] = float("inf")
                for run, at in found:
                    left = at / 1000 + self._age_seconds - now / 1000
                    if left > 0:
                        self._look_at[shard] = looked + min(left, LONGEST_SECONDS)
                        break
                    self._look_at[shard] = looked + (0 if run not in self._aside else ASIDE_SECONDS)
                    yield run
        if self._budget is not None:
            while self._removed:
                it, _ = self._removed.popleft()
                self._budget.removed(it.shard, it.run)
            yield from self._budget.beyond(ended, owned, stirred, self._breathe)

    def _hand(self, ended: EndedRuns, run: RunId, owned: dict[int, Part]) -> None:
        """Archive a run and give it to the loop."""
        shard = ended.runs.shard(run)
        if run in self._handed or shard not in owned or self._aside.get(run, 0.0) > time.monotonic():
            return
        self.working = True
        self._aside.pop(run, None)
        it = ended.look(run)
        if it is None:  # it goes on, or is gone; or a retry is half done, which its owner will finish
            self._put_aside(run, shard)
            return
        if self._archive is None:
            ended.note_blobs(it)
        else:
            seen = it

            def unchanged() -> bool:
                now = ended.look(run)
                return now is not None and (now.at_ms, now.state, now.log_end) == (seen.at_ms, seen.state, seen.log_end)

            if not self._archive.put(ended.runs.namespace, it, ended.pieces(it), self._breathe, unchanged):
                self._put_aside(run, shard)
                return
            self._counts["archived"] += 1
        self._handed.add(run)
        self.ready.append(Removal(it, owned[shard]))
        self._breathe()

    def _put_aside(self, run: RunId, shard: int) -> None:
        """Let a run be for a while."""
        self._aside[run] = time.monotonic() + ASIDE_SECONDS
        if self._budget is not None:
            self._budget.removed(shard, run)
        if len(self._aside) > HANDED_MOST:
            self._aside.pop(next(iter(self._aside)))

    def _breathe(self) -> None:
        """Let the loop have the interpreter, and rest as long as was worked."""
        worked = time.thread_time() - self._worked
        time.sleep(worked if worked > _REST_AFTER else 0)
        if worked > _REST_AFTER:
            self._worked = time.thread_time()
