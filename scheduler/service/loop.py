"""The loop of a scheduler process: inbox -> decide -> commit -> publish.

One turn reads what has arrived and what has run out, decides it all, admits ready nodes to their
classes, commits once per shard and publishes once. Nothing else changes the state of a run. The loop blocks on
its inboxes until the next timer is due. Whatever goes wrong with Redis, the answer is the same: forget
what is in memory, connect again, load, go on.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection

from ..core.states import NodeState
from ..errors import StoreRefused, StoreTooNew, StoreUnreachable
from ..settings import Settings, redacted
from ..store.commits import Overtaken
from ..store.connection import BLOCK_SECONDS, REFUSED, UNREACHABLE, connect
from ..store.inboxes import Entry, Inboxes
from ..wire import RunId
from .batch import Batch
from .clock import Clock
from .dispatch import Dispatch
from .held import Held
from .intake import Intake
from .learning import Learning
from .loading import Loading
from .overdue import Overdue
from .owned import Owned
from .pacing import Pacing, chained_pause, give_way
from .retention import Retention
from .safety import Safety
from .transport import Transport
from .trouble import Trouble
from .waits import Waits

log = logging.getLogger("celeriac.scheduler")

MOST_SMALL = 10
"""Records that a shard has for a turn, to be among those that are soon done."""
TURN_SECONDS, HURRIED_SECONDS = 0.05, 0.002
"""How long a turn takes up what has arrived, before it commits and publishes; the rest is for the next turn. And while
somebody may be waiting for a single node, which has its turn between two such parts."""


class Interrupted(BaseException):
    """Raised by a signal's callback inside a blocking read, where nothing has been acted on yet."""


class Scheduler:
    """One scheduler process.

    Args:
        settings: redis_url must be set.
        transport: how messages get to the broker; by default what the settings name.

    Attributes:
        name: this process, as the table of owners shows it; never used twice.
        counts: events by kind, late ones and refused commits among them, since the start.
    """

    def __init__(self, settings: Settings, transport: Transport | None = None) -> None:
        if settings.redis_url is None:
            raise StoreUnreachable("no Redis is named", "set CELERIAC_REDIS_URL, or start with `celeriac up`")
        self.settings = settings
        self.name = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(3).hex()}"
        self.counts: Counter[str] = Counter()
        self._url = settings.redis_url
        self._dispatch = Dispatch(settings, transport, self.counts)
        self._waits = Waits(self._dispatch.admission, settings.classes)
        self._retention = Retention(settings, self.counts)
        self._stopping = self._blocked = False
        self._read_at = self._read_every = 0.0
        self._pacing = Pacing()
        self._trouble = Trouble(settings, self.counts)
        self._safety = Safety(settings)
        self._stumbled: Counter[str] = Counter()
        self._clock = Clock()
        self._turns = 0
        self._unread: Collection[str] = ()
        """Inboxes that may hold more than was read of them."""
        self._owes = False
        """What is ready has not been admitted since much was last taken up."""
        self._client = connect(self._url)  # nothing is sent yet
        self._inboxes = Inboxes(connect(self._url))
        self._owned = Owned(
            settings, self.name, self._client, self._dispatch, self._retention, self.counts, self._clock
        )
        self._learning = Learning(settings, self._client, self._dispatch, self._owned)

    # -- life ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until `stop`. Returns after everything owned has been given back.

        Raises:
            StoreRefused: Redis may lose what it acknowledged, and the settings are strict.
            StoreTooNew: a newer version has laid out the store.
        """
        self._retention.start()
        try:
            self._work()
        finally:
            self._retention.stop()
        log.info("stopped; %s", dict(self.counts))

    def _work(self) -> None:
        """Turn after turn, whatever happens to Redis, until `stop`."""
        while not self._stopping:
            try:
                self._begin()
                while not self._stopping:
                    self._turn()
                    self._trouble.went_well()
            except Interrupted:
                break
            except (StoreRefused, StoreTooNew):
                self._leave()
                raise
            except Overtaken:
                self.counts["overtaken"] += 1
                log.info("an attempt was claimed as its time ran out; everything is loaded again")
            except Exception as error:  # noqa: BLE001  whatever it is, the answer is the same
                self._note(error)
            if not self._stopping:
                time.sleep(self._trouble.pauses.next())
        self._leave()

    def _note(self, error: Exception) -> None:
        """Why everything is loaded again: once for as long as it lasts."""
        if self._trouble.note(error):
            return
        self.counts["crashes"] += 1
        reading = getattr(getattr(self, "_intake", None), "reading", "")
        if reading:
            self._stumbled[reading] += 1
        log.error("the loop stumbled; everything is loaded again", exc_info=error)

    def stop(self) -> None:
        """Ask the loop to end; it does so after its current turn."""
        self._stopping = True

    def interrupt(self, *_signal: object) -> None:
        """`stop`, for a signal's callback in the thread that runs the loop: a blocked read returns at once."""
        self._stopping = True
        if self._blocked:
            self._blocked = False
            raise Interrupted

    def _begin(self) -> None:
        """Memory is a cache: give the shards back, if Redis answers, and take them anew."""
        self._owned.forget()
        self._client.connection_pool.disconnect()
        self._inboxes.client.connection_pool.disconnect()
        self._safety.check(self._client, anew=True)
        runs = self._owned.begin()
        self._dispatch.admission.bundling.recall(runs.paces())
        self._loading = Loading(runs, self._dispatch, self.counts, self._learning.look)
        self._overdue = Overdue(self._inboxes, self._dispatch, self.counts)
        self._intake = Intake(
            runs,
            self._loading,
            self._dispatch,
            self.counts,
            self._retention.want,
            self._learning.look,
            self._stumbled,
        )
        self._learning.begin()

    def _leave(self) -> None:
        try:
            self._owned.shards.leave()
        except (*UNREACHABLE, *REFUSED) as error:
            where = redacted(self._url)
            log.warning("%s did not take our shards back; they become free when their lease ends: %s", where, error)
        self._dispatch.close()

    # -- one turn -----------------------------------------------------------------------------------

    def _turn(self) -> None:
        now_here = time.monotonic()
        if now_here >= self._learning.look_at:
            self._learning.look()
        if now_here >= self._owned.look_at:
            self._owned.look()
            if self.settings.heartbeat_file is not None:
                self.settings.heartbeat_file.touch()
        self._safety.check_when_due(self._client, now_here)
        self._dispatch.sweep(self._owned.held, self._owned.runs)
        self._owned.load_some(self._inboxes, self._loading, self._settle, TURN_SECONDS)
        self._gather()
        entries, now = self._read()
        self._loading.read_ahead(entries.values())
        self._intake.steps = self._intake.steps_left = 0
        small, large = self._apart()
        batches = self._take(small, now)
        for held in large:
            if held.keys.inbox in entries and (awaited := self._intake.awaited(held)):
                self._intake.take_all(held, _batch_of(batches, held, now), awaited, self._turn_ends())
        if large or self._owes or self._sends:
            self._take_a_part(batches, large, now)
        else:
            self._settle(batches, now)
        if self._intake.look_wanted:
            self._intake.look_wanted = False
            self._owned.look_again()
        self._owned.heed_the_told()
        self._owned.fenced(self._retention.remove(self._client, self._owned.held))

    @property
    def _sends(self) -> bool:
        """Whether what has been admitted is sent by itself, for somebody may be waiting for a single node."""
        return self._dispatch.is_hurried and self._dispatch.outbox.sends_in() == 0

    def _take_a_part(self, small: dict[int, Batch], large: list[Held], now: int) -> None:
        """While somebody may be waiting for a single node: what is soon done, and one part of all the rest. What has
        been admitted is sent, or what is ready is admitted, or more is taken up, each with a commit of its own.
        """
        sends = self._sends
        if small:
            self._settle(small, now, self._dispatch.interactive)
        if sends:
            self._dispatch.outbox.publish(self._owned.runs)
            self._owes |= bool(small)  # of which only interactive classes have gone out
        elif self._owes:
            self._owes = False
            self._settle({}, now, publishes=False)
        else:
            self._settle(self._take(large, now), now, self._dispatch.interactive)
            self._owes = True

    def _take(self, shards: list[Held], now: int) -> dict[int, Batch]:
        """Take up what has arrived for some shards, for as long as a turn lasts; returns their batches."""
        batches: dict[int, Batch] = {}
        until = self._turn_ends()
        for held in shards:
            if self._owned.held.get(held.keys.shard) is not held:  # lost while others were settled
                continue
            if held.unfinished:
                self._loading.go_on(held, _batch_of(batches, held, now), until)
            if held.arrived:
                self._intake.take(held, _batch_of(batches, held, now), until)
            heard = not held.arrived and held.keys.inbox not in self._unread
            if heard and held.due_at_ms is not None and held.due_at_ms <= now:  # else its report may be among the rest
                self._overdue.take(held, _batch_of(batches, held, now))
        return batches

    def _turn_ends(self) -> float:
        """When what is taken up now is to be settled, by time.monotonic()."""
        return time.monotonic() + (HURRIED_SECONDS if self._dispatch.is_hurried else TURN_SECONDS)

    def _apart(self) -> tuple[list[Held], list[Held]]:
        """Our shards; while somebody may be waiting for a single node, those for which there is much to do apart: what
        is soon done goes out before they have their turn.
        """
        found = self._in_turn()
        if not self._dispatch.is_hurried:
            return found, []
        small: list[Held] = []
        large: list[Held] = []
        for held in found:
            records = sum(len(it.fields) // 2 for it in held.arrived)
            (large if held.unfinished or records > MOST_SMALL else small).append(held)
        return small, large

    def _in_turn(self) -> list[Held]:
        """Our shards, each turn beginning with another, for the last may find no time left."""
        found = list(self._owned.held.values())
        self._turns += 1
        at = self._turns % (len(found) or 1)
        return found[at:] + found[:at]

    def _gather(self) -> None:
        """Let reports gather for a moment, while workers have more than enough to do and nothing is due here."""
        dispatch, now = self._dispatch, time.monotonic()
        pause = self._pacing.pause_seconds(dispatch.admission.flying, dispatch.landings, now)
        intake = self._intake
        if not pause and intake.steps_left:
            pause = chained_pause(intake.steps, self._read_every, intake.steps_left, now - self._read_at)
        if not pause or now + pause >= min(self._owned.look_at, self._learning.look_at):
            return
        if not (dispatch.more or dispatch.unsent or self._owes or any(it.arrived for it in self._owned.held.values())):
            time.sleep(pause)

    def _read(self) -> tuple[dict[str, list[Entry]], int]:
        """What has arrived, and Redis's time; blocks until something does, or something is due."""
        until, now_here = min(self._owned.look_at, self._learning.look_at), time.monotonic()
        wait_ms = max(1, int(min(until - now_here, BLOCK_SECONDS) * 1000))
        if not self._owned.held:
            if not self._owned.to_load:
                time.sleep(min(wait_ms, 100) / 1000)
            return {}, 0
        due = [held.due_at_ms for held in self._owned.held.values() if held.due_at_ms is not None]
        if due:
            wait_ms = min(wait_ms, max(1, min(due) - self._clock.now_ms()))
        if (
            self._dispatch.more
            or self._owes
            or self._sends
            or self._owned.to_load
            or any(held.unfinished or held.arrived for held in self._owned.held.values())
        ):
            wait_ms = 0
        else:
            dispatch = self._dispatch
            for soon in (dispatch.outbox.sends_in(), dispatch.looks_in(self._owned.share), self._waits.looks_in()):
                if soon is not None:
                    wait_ms = min(wait_ms, max(1, math.ceil(soon * 1000)))
        wait_ms = self._retention.block_ms(wait_ms)
        inboxes = {held.keys.inbox: held for held in self._owned.held.values()}
        full = {inbox for inbox, held in inboxes.items() if len(held.arrived) >= self._inboxes.asked}
        after = {inbox: held.read_after for inbox, held in inboxes.items() if inbox not in full}
        self._blocked = True
        if self._stopping:
            raise Interrupted
        try:
            entries, now = self._inboxes.read(after, wait_ms)
        finally:
            self._blocked = False
        if self._intake.steps:
            give_way()
        for inbox, found in entries.items():
            inboxes[inbox].hear(found)
        self._unread = full | self._inboxes.cut
        self._clock.hear(now)
        before, self._read_at = self._read_at, time.monotonic()
        self._read_every = self._read_at - before
        return entries, now

    def _settle(
        self,
        batches: dict[int, Batch],
        now: int,
        classes: Collection[str] | None = None,
        *,
        publishes: bool = True,
    ) -> None:
        """Admit what is ready, commit all batches, publish what goes out.

        Args:
            classes: of what may go out; None for all.
            publishes: else what does not go with its commit goes in the next turn.
        """
        runs, held = self._owned.runs, self._owned.held

        def held_of(run: str) -> Held:
            return held[runs.shard(RunId(run))]

        def batch_of(one: Held) -> Batch:
            return _batch_of(batches, one, now)

        again, self._dispatch.admission.again = self._dispatch.admission.again, []
        for run, node in again:
            if run.state[node] == NodeState.READY:
                batch_of(held_of(run.id)).ready.append((run, node))
        self._queue(batches, held_of, batch_of)
        self._learning.hear_workers()
        going = self._dispatch.admit(held_of, batch_of, self._owned.share, classes)
        if self._dispatch.admission.refused:  # in the last moment, so what there is room for goes out in the next turn
            self._queue(batches, held_of, batch_of)
            self._dispatch.more = True
        self._waits.look(lambda: (runs.workers(), runs.now_ms()), lambda run: batch_of(held_of(run.id)))
        outbox = self._dispatch.outbox
        laid = outbox.lay(going, batches, runs)
        have_gone = self._owned.commit(batches, laid)
        if self._intake.steps:
            give_way()
        if have_gone and laid is not None:
            outbox.gone(laid)
        else:
            outbox.keep([it for it in going if it.held.keys.shard in held], first=classes is not None)
        if publishes:
            outbox.publish(runs)

    def _queue(
        self, batches: dict[int, Batch], held_of: Callable[[str], Held], batch_of: Callable[[Held], Batch]
    ) -> None:
        """Ready nodes into admission, and those that must not be sent fail, which may let others become ready."""
        while True:
            for batch in batches.values():
                if self._dispatch.queue(batch, self._learning.look):
                    self._learning.look_again()
            if not self._dispatch.refuse(held_of, batch_of):
                break


def _batch_of(batches: dict[int, Batch], held: Held, now: int) -> Batch:
    """The batch of a shard in this turn."""
    found = batches.get(held.keys.shard)
    if found is None:
        found = batches[held.keys.shard] = Batch(held.keys, held.epoch, now)
    return found
