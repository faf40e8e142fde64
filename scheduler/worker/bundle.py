"""A message that carries several attempts: claimed together, run one after another, each as if it had come alone.

A Celery message costs a millisecond of worker whatever it carries; an attempt inside one some fifty microseconds. Each
goes through Celery's own tracer of its task, so that `self.request`, signals, `before_start`, `after_return`,
contracts, failures and logs are what they are for an attempt with a message of its own. Claims are asked for in one
call, reports leave together, at the latest LATEST_SECONDS after the attempt has ended. One that takes much longer than
expected holds nobody up: those behind it are given back, and so are those whose reports a dying process takes with it;
that costs them nothing.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from math import inf
from typing import Any, NamedTuple

from celery.exceptions import NotRegistered, SoftTimeLimitExceeded, TimeLimitExceeded

from ..store.attempts import Claim, Verdict
from ..wire import BUNDLE, Report, error_record, traceparent
from .attempt_events import heard_by
from .claim import ask
from .context import BUNDLED
from .endings import GIVEN_BACK, Ending, ending, lost
from .entries import entries_in
from .installation import Installation, claimant
from .progress import slot_here
from .report import Patience
from .steps import Here, Steps
from .survival import NOT_ALLOWED, count_refused, may_run
from .ticker import TICK_SECONDS, TICKER
from .tracer import tracer

log = logging.getLogger(__name__)

LATEST_SECONDS = 0.02
"""So long at most a report waits for others."""
TOGETHER_BYTES = 1024 * 1024
"""Outputs that wait for others, at most."""
PATIENCE_SECONDS = 1.0
"""An attempt that runs for longer has those behind it given back."""
LEASE_PART = 0.8
"""Of a lease, for which reports wait through an outage of Redis."""


def register_bundles(installation: Installation) -> None:
    """Make the task that carries attempts known to the app."""

    def bundle(self: Any, attempts: str | list[dict[str, Any]]) -> str:
        """Attempts of celeriac's that travel in one message."""
        return Bundle(installation, self.request, entries_in(attempts)).run()

    installation.app.task(bundle, name=BUNDLE, bind=True, typing=False, shared=False, ignore_result=True)


class _Running(NamedTuple):
    """What runs now: an attempt, since when by time.monotonic(), and its time limits in seconds."""

    id: str = ""
    since: float = 0.0
    hard: float | None = None
    soft: float | None = None


_NOTHING = _Running()


class Bundle:
    """One bundle while it runs.

    Args:
        installation: the app's.
        outer: Celery's request of the message.
        entries: attempts as publisher.py writes them: id, task, inputs ([args, kwargs]), celeriac (a header like that
            of a lone message), and where they are not the usual, timelimit ([hard, soft]) and ignore_result. `then`
            has the steps that follow it in a chain, each with its `claim` and its `holes` (chain.py).
    """

    def __init__(self, installation: Installation, outer: Any, entries: Sequence[dict[str, Any]]) -> None:
        self.installation = installation
        self.token = secrets.token_hex(8)
        self.claims: dict[str, Claim] = {}
        self.counts: Counter[str] = Counter()
        self._hostname = str(outer.hostname or "worker")
        self._events = heard_by(installation, self._hostname)
        self._entries = entries
        self._refused: Counter[str] = Counter()
        self._left: deque[dict[str, Any]] = deque()
        """Ours, and their turn has not come. Each is taken out once: to run, or to go back."""
        self._may_run: dict[str, bool] = {}
        self._alike = {
            "lang": "py",
            "origin": "celeriac",
            "hostname": outer.hostname,
            "delivery_info": outer.delivery_info,
            "reply_to": outer.reply_to,
            "retries": 0,
            "is_eager": False,
        }
        """What Celery's requests of all attempts have in common."""
        self._lock = threading.Lock()
        """Of what waits to be sent, and of signals on their way to what runs."""
        self._sending = threading.Lock()
        self._reports: list[tuple[Report, bytes | None]] = []
        self._bytes = 0
        self._since = 0.0
        """When the oldest report that waits was made; 0 while none does."""
        self._sent_at = time.monotonic()
        self._running = _NOTHING
        self._lap = 0.0
        self._warned = ""
        """The attempt that those behind it have been given back for."""
        self._in_pool = installation.in_pool_process
        self._progress = installation.progress if self._in_pool else None
        self._slot = slot_here() if self._in_pool else 0
        self._steps = Steps(
            Here(
                installation,
                self._hostname,
                self.token,
                self.claims,
                self._queue,
                self._note,
                self._begin,
                self._runs,
                not self._events.hears,
            )
        )

    def run(self) -> str:
        """All attempts that are ours to run, in their order; what became of them, for people."""
        self.claims.update(self._claim())
        self._left.extend(it for it in self._entries if it["id"] in self.claims)
        self._lap = time.perf_counter()
        token = BUNDLED.set(self)
        own = self._listen()
        TICKER.watch(self)
        try:
            while (entry := self._taken()) is not None:
                self._note(entry["id"])
                self._run_from(entry)
            self._note("")
        finally:
            TICKER.forget(self)
            if own is not None:
                signal.signal(signal.SIGUSR1, own)
            BUNDLED.reset(token)
            self._steps.leave()
            self._give_back("the message was left")
            self.flush()
        said = ", ".join(f"{count} {end}" for end, count in sorted((self.counts + self._refused).items()))
        return f"{len(self._entries)} attempts: {said}"

    # -- claims -------------------------------------------------------------------------------------

    def _claim(self) -> dict[str, Claim]:
        """What we may run; what we may not is counted."""
        ids = [str(it["id"]) for it in self._entries]
        answers = dict(zip(ids, ask(self.installation, ids, claimant(self._hostname), self.token), strict=True))
        for claim in answers.values():
            if claim.verdict is not Verdict.GRANTED:
                self._refused[claim.verdict.value] += 1
        if self._progress is not None:
            self._progress.refuses(self._slot, self._refused)
        else:
            count_refused(self._refused)
        granted = {id_: it for id_, it in answers.items() if it.verdict is Verdict.GRANTED}
        self._steps.clock_ms = next((it.now_ms for it in granted.values()), 0) - round(time.monotonic() * 1000)
        return granted

    # -- one after another --------------------------------------------------------------------------

    def _taken(self) -> dict[str, Any] | None:
        """The next attempt, which is the caller's from now on; None when there is none left."""
        try:
            return self._left.popleft()
        except IndexError:
            return None

    def _run_from(self, entry: dict[str, Any]) -> None:
        """An attempt, and the steps of its chain for as long as each ends well and soon."""
        following = iter(entry.get("then") or ())
        until = time.monotonic() + PATIENCE_SECONDS
        self._steps.enters()
        while True:
            step = next(following, None)
            self._steps.precede(step, until)
            self._events.begins(entry)
            if entry["id"] in self.claims:  # else it begins when its claim has come
                self._begin(entry)
            traced = self._one(entry)
            self._end()
            self._events.returned(traced)
            if not self._steps.goes_on(entry) or step is None:
                return
            entry = step

    def chain_of(self, id_: str) -> str:
        """The token of an attempt that was begun as the next step of a chain; "" of others."""
        return self._steps.chain_of(id_)

    def claim_of(self, id_: str) -> Claim | None:
        """What became of the claim of an attempt; None where it is none of ours."""
        return self.claims.get(id_) or self._steps.claim_of(id_)

    def token_of(self, id_: str) -> str:
        """The token with which an attempt was claimed."""
        return self.chain_of(id_) or self.token

    @property
    def step(self) -> str:
        """The attempt that runs now, if it is the next step of a chain and so does not stand in the header; else ""."""
        current = self._running.id
        return current if self._steps.is_step(current) else self._steps.coming

    def _begin(self, entry: dict[str, Any]) -> None:
        hard, soft = entry.get("timelimit") or (None, None)
        self._running = _Running(entry["id"], time.monotonic(), hard, soft)

    def _end(self) -> None:
        ended, self._running = self._running, _NOTHING
        if ended.soft is not None:
            with self._lock:  # a signal that is just being sent comes before the next one begins
                pass

    def _one(self, entry: dict[str, Any]) -> Any:
        """An attempt, by Celery's own tracer of its task; what that answers."""
        id_, name = entry["id"], entry["task"]
        task = self.installation.app._tasks.get(name)
        if task is None:
            self._tell(id_, ending(NotRegistered(name)))
            return None
        if not self._runs(name):
            told = f"task {name!r} may not run in the queue class of this worker (executors, queues.toml)"
            error = error_record("permanent", NOT_ALLOWED, told, origin="policy", phase="route")
            self._tell(id_, Ending("failed", error))
            return None
        args, kwargs = entry["inputs"]
        try:
            return tracer(task, self._hostname, told=self._events.hears)(id_, args, kwargs, self._request(entry))
        except Exception as problem:  # out of the tracer itself; a report that has gone before this one stands
            log.exception("attempt %s was left by its tracer", id_)
            claim = self.claim_of(id_)
            if claim is not None and claim.verdict is Verdict.GRANTED:
                self._tell(id_, lost(type(problem).__name__, f"outside the task itself: {problem}"))
            return None

    def _runs(self, name: str) -> bool:
        """Whether a task is known here, and this worker's class takes it."""
        may = self._may_run.get(name)
        if may is None:
            may = self._may_run[name] = name in self.installation.app._tasks and may_run(name)
        return may

    def _request(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Celery's request of an attempt, as if it had had a message of its own."""
        id_, header, (args, kwargs) = entry["id"], entry["celeriac"], entry["inputs"]
        _, run, node, _, attempt = id_.split(".")
        trace = traceparent(run, int(node), int(attempt))
        return {
            **self._alike,
            "id": id_,
            "task": entry["task"],
            "root_id": run,
            "parent_id": run,
            "args": args,
            "kwargs": kwargs,
            "argsrepr": f"run={run} node={header.get('node', node)} attempt={attempt}",
            "timelimit": entry.get("timelimit") or [None, None],
            "ignore_result": entry.get("ignore_result", True),
            "celeriac": header,
            "traceparent": trace,
            "headers": {"celeriac": header, "traceparent": trace},  # Celery would look for them, at 10 us
            "correlation_id": id_,
        }

    # -- reports ------------------------------------------------------------------------------------

    def report(self, reports: Iterable[tuple[Report, bytes | None]]) -> None:
        """Where Attempts.report would send: those of short attempts wait for others, and leave together. After a longer
        one there is nothing to gain by waiting, and a process that dies would take its report along.
        """
        for report, output in reports:
            kept = self._steps.takes(report, output)
            if kept is None:
                continue
            self.counts[report.end] += 1
            self._events.reported(report)
            if not kept:
                self._queue(report, output)

    def _queue(self, report: Report, output: bytes | None) -> None:
        now = time.monotonic()
        with self._lock:
            self._reports.append((report, output))
            self._bytes += len(output or b"")
            self._since = self._since or now
            full = self._bytes > TOGETHER_BYTES or now - self._sent_at > LATEST_SECONDS - TICK_SECONDS
        if full:
            self._send()

    def lap(self) -> float:
        """When the attempt before has ended, by time.perf_counter(); the next one is counted from now."""
        last, self._lap = self._lap, time.perf_counter()
        return last

    def flush(self) -> None:
        """Send what waits, through an outage for less than a lease; then it is the scheduler's to miss."""
        lease_ms = min((it.lease_end_ms - it.now_ms for it in self.claims.values()), default=0)
        patience = Patience(lease_ms / 1000 * LEASE_PART)
        while self._reports:
            trouble = self._send()
            if trouble is None:
                continue
            patience.bear(trouble)
            if not patience.wait():
                log.warning(
                    "%d attempts ended, but Redis did not take the reports: %r. Their leases will run out, and the "
                    "nodes run again.",
                    len(self._reports),
                    trouble,
                )
                return

    def _send(self) -> BaseException | None:
        """One try to send what waits; why it failed. What was not taken waits on, in its order."""
        with self._sending:
            with self._lock:
                batch, self._reports = self._reports, []
                self._bytes, self._since, self._sent_at = 0, 0.0, time.monotonic()
            try:
                if batch:
                    self.installation.attempts().report(batch)
            except Exception as trouble:  # noqa: BLE001  an outage, whatever its form
                with self._lock:
                    self._reports = batch + self._reports
                    self._bytes = sum(len(output or b"") for _, output in self._reports)
                    self._since = time.monotonic()
                return trouble
        return None

    def _tell(self, id_: str, what: Ending) -> None:
        claimed, chain = self.claims[id_].now_ms, self.chain_of(id_)
        after = what.retry_after_ms
        told = Report(id_, what.end, self._hostname, claimed, "none", what.error, after, None, "", bool(chain), chain)
        self.report([(told, None)])

    def _give_back(self, why: str) -> None:
        """Attempts whose turn has not come go back to the scheduler at once."""
        while (entry := self._taken()) is not None:
            self._tell(entry["id"], lost(GIVEN_BACK, f"given back before its turn: {why}"))

    def _note(self, id_: str) -> None:
        if self._progress is not None:
            self._progress.begins(self._slot, id_)

    # -- time ---------------------------------------------------------------------------------------

    def _listen(self) -> Any:
        """Soft time limits in a pool process: its own handler would not know whose limit it was. What to put back."""
        if not self._in_pool or threading.current_thread() is not threading.main_thread():
            return None
        return signal.signal(signal.SIGUSR1, self._soft_limit)

    def _soft_limit(self, *_: Any) -> None:
        """Runs in the main thread: a signal that comes when its attempt has ended just then is nobody's any more. One
        that we have not sent is Celery's, for a limit of the whole pool.
        """
        running = self._running
        if running.id and (running.soft is None or time.monotonic() - running.since >= running.soft):
            self._running = running._replace(soft=inf)
            raise SoftTimeLimitExceeded

    def tick(self) -> None:
        """From the ticker's thread: send what has waited, look after whoever takes too long."""
        now = time.monotonic()
        running = self._running
        ran = now - running.since
        with self._lock:
            late = self._reports and now - self._since >= LATEST_SECONDS - TICK_SECONDS
        if running.id and ran > PATIENCE_SECONDS and self._warned != running.id:
            self._warned = running.id
            self._give_back(f"the attempt before it has been running for {ran:.1f} s")
            late = True
        self._steps.tick(now)
        if late:
            self._send()
        if not running.id or not self._in_pool:
            return
        if running.hard is not None and ran >= running.hard:
            self._kill(running.id, running.hard)
        elif running.soft is not None and ran >= running.soft:
            with self._lock:  # so that no signal is sent for an attempt that has ended
                if self._running is running:
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def _kill(self, id_: str, hard: float) -> None:
        """A hard time limit has passed: told, and the process ends, as Celery ends it for a lone attempt."""
        if self._running.id != id_:
            return
        log.error("Hard time limit (%ss) exceeded for attempt %s", hard, id_)
        self._give_back("the attempt before it ran out of time")
        self._tell(id_, ending(TimeLimitExceeded(hard)))
        until = time.monotonic() + 2.0
        while self._send() is not None and time.monotonic() < until:
            time.sleep(TICK_SECONDS)
        self._events.dies()
        os.kill(os.getpid(), signal.SIGKILL)


def steps_here() -> list[str]:
    """Next steps of chains that run in this process now; their messages do not name them in a header."""
    return [step for it in TICKER.watched() if (step := it.step)]
