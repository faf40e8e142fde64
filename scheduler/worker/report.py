"""Telling how attempts ended: at once and waiting where the attempt ran, by a thread in a worker's main process.

Where the attempt ran (a pool child, a pool thread) the report must be in Redis before Celery
acknowledges the message, so it waits through an outage, up to less than a lease. Then the attempt is given up: nobody
renews it any more, its lease runs out, and the node runs again. The main process must never wait: it serves the broker.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import threading
import time
from collections import OrderedDict, deque
from typing import Any

from kombu.exceptions import EncodeError
from kombu.utils.json import JSONEncoder

from ..store.attempts import Attempts
from ..wire import INLINE_LIMIT_BYTES, DeadMessage, Report
from .broker import noted
from .context import Held
from .endings import Ending
from .installation import Installation

log = logging.getLogger(__name__)

_encode = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
FLUSH_SECONDS = 3.0
REMEMBERED = 2_000
QUEUED = 20_000
MOST_LEVELS = 200
QUEUED_DEAD = 200


def encode(output: Any) -> bytes:
    """An output as compact JSON, with kombu's forms for dates, UUIDs, decimals and bytes.

    Raises:
        EncodeError: not JSON, as NaN, infinities, lone surrogates and foreign objects are not; or nested too deeply.
    """
    if output is None:  # of many tasks, and the encoder is slow to begin
        return b"null"
    try:
        data = bytes(_encode(output).encode())
    except (TypeError, ValueError, RecursionError, OverflowError) as problem:
        raise EncodeError(
            f"the output is not JSON: {type(problem).__name__}: {problem}. Return plain data: dict, list, str, "
            "finite numbers, bool, None."
        ) from problem
    if data.count(b"[") + data.count(b"{") > MOST_LEVELS and _levels(output) > MOST_LEVELS:
        raise EncodeError(
            f"the output is nested deeper than {MOST_LEVELS} levels, which not every reader of JSON takes. Flatten it, "
            "or return it as text."
        )
    return data


def _levels(value: Any) -> int:
    """How deeply lists and dicts are nested in a value that has been encoded."""
    levels, inner = 0, [value]
    while inner and levels <= MOST_LEVELS + 1:
        inner = [
            it
            for outer in inner
            if isinstance(outer, dict | list | tuple)
            for it in (outer.values() if isinstance(outer, dict) else outer)
        ]
        levels += 1
    return levels - 1


def check_size(data: bytes, limit: int) -> None:
    """Whether an output may be kept in Redis.

    Raises:
        OutputTooLarge: it may not; the node fails, and no retry helps.
    """
    if len(data) > limit:
        raise OutputTooLarge(
            f"the output has {len(data):,} bytes, at most {limit:,} are kept in Redis (output_limit_bytes). Store it "
            "elsewhere and return its address, or split the work."
        )


class OutputTooLarge(EncodeError):
    """An output over the limit: the executor's contract is broken."""


def succeed(held: Held, data: bytes) -> None:
    """Report the output of the attempt that runs here. Waits; see deliver()."""
    kind, ran_us = "inline", _ran_us(held)
    put_aside = None
    if len(data) > INLINE_LIMIT_BYTES:
        put_aside, kind = data, "blob"
    chain, at = _chain(held), held.claimed_at_ms
    report = Report(held.id, "succeeded", held.worker, at, kind, None, None, ran_us, "", bool(chain), chain)
    deliver(held, report, data, put_aside)


def end(held: Held, ending: Ending) -> None:
    """Report another ending of the attempt that runs here. Waits; see deliver()."""
    error, after, ran_us = ending.error, ending.retry_after_ms, _ran_us(held)
    chain, at = _chain(held), held.claimed_at_ms
    report = Report(
        held.id, ending.end, held.worker, at, "none", error, after, ran_us, chained=bool(chain), chain=chain
    )
    deliver(held, report, None)


def _chain(held: Held) -> str:
    return "" if held.bundle is None else held.bundle.chain_of(held.id)


def _ran_us(held: Held) -> int | None:
    """How long the task has run, until now; of several in one message with all that it cost since the one before."""
    began = held.began if held.bundle is None else held.bundle.lap()
    return round((time.perf_counter() - began) * 1e6) if held.began else None


def deliver(held: Held, report: Report, output: bytes | None, put_aside: bytes | None = None) -> None:
    """Send a report, once, waiting through outages for less than the lease; through a full Redis for as long as it is.

    What could not be sent is dropped, and the message acknowledged as if it had been: the attempt is then the
    scheduler's to miss. To reject the message would gain nothing, since another delivery of an attempt that has begun
    runs nothing; and Celery's thread pool never tells the worker of a Reject raised here, so that the attempt would
    stay among those that run, and be renewed, until its time limit.
    """
    if held.settled:
        return
    patience: Patience | None = None
    while True:
        try:
            if put_aside is not None:
                key = held.installation.attempts().put_blob(held.id, put_aside)
                digest = hashlib.sha256(put_aside).hexdigest()
                output, put_aside = _reference(key, len(put_aside), digest), None
            (held.bundle or held.installation.attempts()).report([(report, output)])
            held.settled = True
            return
        except Exception as trouble:  # noqa: BLE001  whatever kept it from Redis, a soft time limit included: the ending stands
            if patience is None:
                patience = Patience(held.lease_ms * 0.0008)
            patience.bear(trouble)
            if not patience.wait():
                held.settled = True
                log.warning(
                    "attempt %s ended (%s), but Redis did not take the report: %r. Its lease will run out, and the "
                    "node runs again.",
                    held.id,
                    report.end,
                    trouble,
                )
                return


def _reference(key: str, size: int, digest: str) -> bytes:
    return json.dumps({"blob": key, "bytes": size, "sha256": digest}, separators=(",", ":")).encode()


class Patience:
    """Growing pauses with jitter, until a time is up."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.until = time.monotonic() + seconds
        self.pause = PAUSE_SECONDS

    def bear(self, trouble: BaseException) -> None:
        """A Redis that answers and takes no writes (it is full, or its disk is) is waited for as long as that lasts:
        the broker beside it would not take the message back either, and leases are renewed meanwhile.
        """
        if noted(trouble):
            self.until = time.monotonic() + self.seconds + LONGEST_PAUSE_SECONDS

    def wait(self) -> bool:
        """Pause once; False, without a pause, when there is no time left for it."""
        pause = self.pause * random.uniform(0.5, 1.0)
        if time.monotonic() + pause > self.until:
            return False
        time.sleep(pause)
        self.pause = min(self.pause * 2, LONGEST_PAUSE_SECONDS)
        return True


class Courier:
    """Reports from a worker's main process, where nothing may wait: a queue and one thread.

    Tells of each attempt once: Celery tells of a hard time limit twice.
    """

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self._pid = 0
        self._waiting: deque[Report] = deque(maxlen=QUEUED)
        self._dead: deque[DeadMessage] = deque()
        self._told: OrderedDict[str, None] = OrderedDict()
        self._wake = threading.Condition()
        self._sending = False

    def send(self, id_: str, ending: Ending, worker: str = "") -> None:
        """Queue a report; returns at once."""
        with self._wake:
            if id_ in self._told:
                return
            self.suppress(id_)
            self._waiting.append(Report(id_, ending.end, worker, None, "none", ending.error, ending.retry_after_ms))
            self._go()

    def send_dead(self, dead: DeadMessage) -> bool:
        """Queue a rejected message; returns at once. False: so many wait for Redis that this one is dropped."""
        with self._wake:
            if len(self._dead) >= QUEUED_DEAD:
                return False
            self._dead.append(dead)
            self._go()
            return True

    def _go(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            threading.Thread(target=self._run, name="celeriac-reports", daemon=True).start()
        self._wake.notify_all()

    def suppress(self, id_: str) -> None:
        """Nothing more is to be told of this attempt."""
        self._told[id_] = None
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)

    def flush(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Wait until all is sent, at most `seconds`; whether it is."""
        with self._wake:
            return self._wake.wait_for(lambda: not (self._waiting or self._dead or self._sending), seconds)

    def _run(self) -> None:
        attempts = None
        pause = PAUSE_SECONDS
        while True:
            with self._wake:
                self._sending = False
                self._wake.notify_all()
                self._wake.wait_for(lambda: bool(self._waiting or self._dead))
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), 100))]
                dead = [self._dead.popleft() for _ in range(min(len(self._dead), 10))]
                self._sending = True
            while batch or dead:
                try:
                    attempts = attempts or self.installation.open()
                    attempts.report([(report, None) for report in _as_claimed(attempts, batch)])
                    batch = []
                    attempts.report_dead(dead)
                    dead, pause = [], PAUSE_SECONDS
                except Exception as trouble:  # noqa: BLE001  an outage: the thread must live
                    if pause == PAUSE_SECONDS:
                        log.warning("%d reports wait for Redis: %r", len(batch) + len(dead), trouble)
                    time.sleep(pause)
                    pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


def _as_claimed(attempts: Attempts, reports: list[Report]) -> list[Report]:
    """Reports with the instant of the claim: the process that knew it is gone, and the account of runs needs it."""
    claims = attempts.claimed([report.id for report in reports if report.claimed_at_ms is None])
    return [
        it._replace(
            claimed_at_ms=claims[it.id][0],
            worker=it.worker or claims[it.id][1].rpartition("/")[0],
            chained=bool(claims[it.id][2]),
            chain=claims[it.id][2],
        )
        if it.id in claims
        else it
        for it in reports
    ]


def tell(installation: Installation, id_: str, ending: Ending, worker: str = "") -> None:
    """Report an ending seen from outside the attempt, in a worker's main process. Never waits."""
    _courier(installation).send(id_, ending, worker)


def tell_dead(installation: Installation, dead: DeadMessage) -> bool:
    """Report a message that was rejected, in a worker's main process. Never waits; False when it is dropped instead."""
    return _courier(installation).send_dead(dead)


def _courier(installation: Installation) -> Courier:
    courier = installation.courier
    if courier is None:
        courier = installation.courier = Courier(installation)
    return courier
