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

from ..errors import StoreRefused, StoreTooNew, StoreUnreachable
from ..settings import Settings, redacted
from ..store.commits import Commit, Overtaken, send_commits
from ..store.connection import BLOCK_SECONDS, REFUSED, UNREACHABLE, connect
from ..store.inboxes import Entry, Inboxes
from ..store.owners import Owners
from ..store.runs import Runs
from ..wire import RunId
from .batch import Batch
from .dispatch import Dispatch
from .held import Held
from .intake import Intake
from .pacing import Pacing
from .retention import Retention
from .rewinds import Rewinds
from .safety import Safety
from .shards import Shards
from .transport import Transport
from .trouble import Trouble

log = logging.getLogger("celeriac.scheduler")

CONTRACTS_SECONDS = 0.5
"""How often to look for new contracts while nodes wait for one."""
TURN_SECONDS = 0.05
"""How long a turn takes up what has arrived, before it commits and publishes; the rest is for the next turn."""


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
        self._retention = Retention(settings, self.counts)
        self._held: dict[int, Held] = {}
        self._stopping = self._blocked = False
        self._look_at = self._contracts_at = 0.0
        self._contracts_version = -1
        self._pacing = Pacing()
        self._trouble = Trouble(settings, self.counts)
        self._safety = Safety(settings)
        self._stumbled: Counter[str] = Counter()
        self._clock = (0, 0.0)
        self._turns = 0
        self._to_adopt: dict[int, None] = {}
        self._open()

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
                self._forget_all()
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
                time.sleep(self._trouble.pause_seconds())
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

    def _open(self) -> None:
        """Clients, not connections: nothing is sent yet."""
        self._client = connect(self._url)
        self._inboxes = Inboxes(connect(self._url))
        lease_ms = round(self.settings.shard_lease_seconds * 1000)
        self._owners = Owners(self._client, self.settings.namespace, self.name, lease_ms)
        self._rewinds = Rewinds(self._owners, self.counts)
        self._runs: Runs | None = None
        self._shards = Shards(self._owners, 0)

    def _forget_all(self) -> None:
        """Memory is a cache: give the shards back, if Redis answers, and take them anew."""
        for held in list(self._held.values()):
            self._drop(held.keys.shard)
        self._retention.reset()
        self._to_adopt.clear()
        self._client.connection_pool.disconnect()
        self._inboxes.client.connection_pool.disconnect()
        self._safety.check(self._client)
        self._runs = self._rewinds.connect(self._client, self.settings, self._runs)
        self._rewinds.look(self._runs.shards, ())  # before another can take what is ours
        self._owners.release(self._shards.owned, leaving=False)
        self._shards = Shards(self._owners, self._runs.shards)
        self._intake = Intake(
            self._runs, self._inboxes, self._dispatch, self.counts, self._retention.want, self._stumbled
        )
        self._look_at = self._contracts_at = 0.0
        self._contracts_version = -1

    def _leave(self) -> None:
        try:
            self._shards.leave()
        except (*UNREACHABLE, *REFUSED) as error:
            where = redacted(self._url)
            log.warning("%s did not take our shards back; they become free when their lease ends: %s", where, error)
        self._dispatch.close()

    # -- one turn -----------------------------------------------------------------------------------

    def _turn(self) -> None:
        now_here = time.monotonic()
        if now_here >= self._contracts_at:
            self._learn_contracts()
        if now_here >= self._look_at:
            self._look()
        self._safety.check_when_due(self._client, now_here)
        self._adopt_some()
        self._gather()
        entries, now = self._read()
        batches: dict[int, Batch] = {}
        until = time.monotonic() + TURN_SECONDS
        for held in self._in_turn():
            arrived = entries.get(held.keys.inbox)
            if held.unfinished:
                self._intake.go_on(held, _batch_of(batches, held, now), until)
            heard = not arrived or (
                self._intake.take_entries(held, _batch_of(batches, held, now), arrived, until)
                and len(arrived) < self._inboxes.asked
            )  # a lease that has ended may have its report among the entries that are still to be read
            if heard and held.due_at_ms is not None and held.due_at_ms <= now:
                self._intake.take_due(held, _batch_of(batches, held, now))
        if self._intake.look_wanted:
            self._intake.look_wanted, self._look_at = False, 0.0
        self._settle(batches, now)
        told = {shard for shard, held in self._held.items() if held.behind}
        if told:
            self._rewinds.behind |= told
            self._look_at = 0.0
        for shard in self._retention.remove(self._client, self._held):
            self._refused(shard, rewound=False)

    def _in_turn(self) -> list[Held]:
        """Our shards, each turn beginning with another, for the last may find no time left."""
        found = list(self._held.values())
        self._turns += 1
        at = self._turns % (len(found) or 1)
        return found[at:] + found[:at]

    def _gather(self) -> None:
        """Let reports gather for a moment, while workers have more than enough to do and nothing is due here."""
        dispatch, now = self._dispatch, time.monotonic()
        pause = self._pacing.pause_seconds(dispatch.admission.flying, dispatch.landings, now)
        if pause and not (dispatch.more or dispatch.unsent) and now + pause < min(self._look_at, self._contracts_at):
            time.sleep(pause)

    def _read(self) -> tuple[dict[str, list[Entry]], int]:
        """What has arrived, and Redis's time; blocks until something does, or something is due."""
        wait_seconds = min(self._look_at, self._contracts_at, time.monotonic() + BLOCK_SECONDS) - time.monotonic()
        wait_ms = max(1, int(wait_seconds * 1000))
        if not self._held:
            if not self._to_adopt:
                time.sleep(min(wait_ms, 100) / 1000)
            return {}, 0
        due = [held.due_at_ms for held in self._held.values() if held.due_at_ms is not None]
        if due:
            wait_ms = min(wait_ms, max(1, min(due) - self._now()))
        if self._dispatch.more or self._to_adopt or any(held.unfinished for held in self._held.values()):
            wait_ms = 1
        elif (sends_in := self._dispatch.sends_in()) is not None:
            wait_ms = min(wait_ms, max(1, math.ceil(sends_in * 1000)))
        wait_ms = self._retention.block_ms(wait_ms)
        after = {held.keys.inbox: held.read_after for held in self._held.values()}
        self._blocked = True
        if self._stopping:
            raise Interrupted
        try:
            entries, now = self._inboxes.read(after, wait_ms)
        finally:
            self._blocked = False
        self._clock = (now, time.monotonic())
        return entries, now

    def _now(self) -> int:
        """Redis's time at the last read and what has passed here since: decides how long to block, nothing else."""
        at, then = self._clock
        return at + int((time.monotonic() - then) * 1000)

    def _settle(self, batches: dict[int, Batch], now: int) -> None:
        """Admit what is ready, commit all batches, publish what goes out."""
        runs = self._connected

        def held_of(run: str) -> Held:
            return self._held[runs.shard(RunId(run))]

        def batch_of(held: Held) -> Batch:
            return _batch_of(batches, held, now)

        while True:  # a node that is refused may let others become ready
            for batch in batches.values():
                if self._dispatch.queue(batch):
                    self._contracts_at = 0.0
            if not self._dispatch.refuse(held_of, batch_of):
                break
        going = self._dispatch.admit(held_of, batch_of, len(self._held) / runs.shards)
        self._commit(batches)
        self._dispatch.unsent += [it for it in going if it.held.keys.shard in self._held]
        self._dispatch.publish(runs)

    def _commit(self, batches: dict[int, Batch]) -> None:
        """One script call per shard. A shard that is not ours any more is forgotten."""
        commits = [
            (held, batch, commit)
            for held, batch in ((self._held[shard], batch) for shard, batch in batches.items())
            if (commit := batch.commit(held.published, held.count))
        ]
        if not commits:
            return
        refused = send_commits(self._client, [commit for _, _, commit in commits])
        for held, batch, commit in commits:
            if held.keys.shard in refused:
                self._refused(held.keys.shard, rewound=commit.rewound)
                continue
            self._committed(held, commit)
            held.batches_out += batch.outbox_batches - held.published
            held.published = 0
            for due_at_ms in batch.timers.values():
                held.look_by(due_at_ms)
            for run in batch.ended:
                held.runs.pop(run.id, None)
                self.counts[f"runs {run.run_state}"] += 1
            if batch.ended:
                self._retention.ended(held.keys.shard)
            self._dispatch.admission.forget(run.id for run in batch.ended)

    def _committed(self, held: Held, commit: Commit) -> None:
        """Count commits as Redis does: it counts each call."""
        held.count += commit.cuts
        self._owners.known[held.keys.shard] = held.count

    def _refused(self, shard: int, *, rewound: bool) -> None:
        """A shard that is not ours any more is forgotten; one that lacks commits is loaded again at the next look."""
        self._drop(shard)
        self._look_at = 0.0
        if rewound:
            self._rewinds.behind.add(shard)
        else:
            self.counts["fenced"] += 1
            log.warning("shard %d belongs to another scheduler now; a commit was refused", shard)
            self._shards.owned.pop(shard, None)
            self._retention.own(self._held)

    # -- shards and contracts -----------------------------------------------------------------------

    @property
    def _connected(self) -> Runs:
        if self._runs is None:
            raise ConnectionError("the store has not answered yet")
        return self._runs

    def _look(self) -> None:
        """Renew our shards; load those gained, forget those lost, and those anew whose commits Redis has lost."""
        self._runs = self._rewinds.connect(self._client, self.settings, self._connected)
        self._rewinds.look(self._runs.shards, self._shards.owned)
        change = self._shards.look()
        self._look_at = time.monotonic() + self._shards.next_look_ms / 1000
        for shard in change.lost:
            self._drop(shard)
        self._to_adopt |= dict.fromkeys(change.gained)
        for shard in self._rewinds.again(self._shards.owned):
            self._drop(shard)
            self._to_adopt[shard] = None
        if change.raised:
            log.error(
                "the table of owners lacked the numbers of %d shards, among them %s, which their own tokens still "
                "have; it has them again. Was %s deleted or restored alone?",
                len(change.raised),
                change.raised[0],
                self._owners.keys.owners,
            )
        if change.gained or change.lost:
            self._retention.own(self._held)
            owned = len(self._shards.owned)
            log.info("own %d of %d shards; schedulers live: %d", owned, self._shards.count, self._shards.live)
        if self.settings.heartbeat_file is not None:
            self.settings.heartbeat_file.touch()

    def _adopt_some(self) -> None:
        """Load shards that are ours and not in memory yet, for as long as a turn may take; one in any case."""
        until = time.monotonic() + TURN_SECONDS
        while self._to_adopt:
            shard = next(iter(self._to_adopt))
            del self._to_adopt[shard]
            if shard in self._shards.owned and shard not in self._held:
                self._adopt(shard, self._shards.owned[shard])
                self._retention.own(self._held)
                if time.monotonic() >= until:
                    return

    def _adopt(self, shard: int, epoch: str) -> None:
        """Load a shard: live runs, attempts in flight, and what may not have been published."""
        runs = self._connected
        keys = runs.keys.shard(shard)
        found = self._inboxes.adopt(keys)
        now = runs.now_ms()
        self._clock = (now, time.monotonic())
        held = self._held[shard] = Held(keys, epoch, found.commits)
        held.rewound_at_ms, held.missing = found.rewound_at_ms, found.missing
        self._rewinds.heal(held, found)
        held.look_by(now)
        batch = Batch(keys, epoch, now)
        if found.gone:
            self._retention.leftovers(shard)
        self._intake.load(held, batch, [RunId(run) for run in found.live], found.attempts)
        broken_off = self._intake.broken_off(held, found, now)
        if broken_off:
            if send_commits(self._client, [broken_off]):
                self._refused(shard, rewound=broken_off.rewound)
                return
            self._committed(held, broken_off)
        for id_, state in found.attempts.items():
            if held.is_current(id_):
                self._dispatch.flies(held, id_, state.split("|", 2)[1])
        self._dispatch.republish(held, found.attempts, found.outbox)
        self._settle({shard: batch}, now)

    def _drop(self, shard: int) -> None:
        held = self._held.pop(shard, None)
        if held is not None:
            self._dispatch.forget(held)

    def _learn_contracts(self) -> None:
        """Read contracts when their version went up; more often while nodes wait for one."""
        runs = self._connected
        version = runs.contracts_version()
        if version != self._contracts_version:
            self._contracts_version = version
            self._dispatch.admission.learn(runs.contracts())
            self._dispatch.more = True
        pause = CONTRACTS_SECONDS if self._dispatch.admission.waits() else self.settings.shard_lease_seconds / 3
        self._contracts_at = time.monotonic() + pause


def _batch_of(batches: dict[int, Batch], held: Held, now: int) -> Batch:
    """The batch of a shard in this turn."""
    found = batches.get(held.keys.shard)
    if found is None:
        found = batches[held.keys.shard] = Batch(held.keys, held.epoch, now)
    return found
