"""The chains of a bundle: from each step to the next.

What follows an attempt in its chain begins in one of three ways, and the report of the one is told with each. A pure
step begins ahead (ahead.py). Of any other the claim is on its way while Celery leaves the one before it and makes ready
for it, and is known before it begins. Where that cannot be, the claim is asked for when the one before it has been
left.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from celery.exceptions import SoftTimeLimitExceeded

from ..store.attempts import Claim, Onward, Verdict
from ..store.passage import Passage
from ..wire import CHAINED, Report
from . import chain
from .ahead import Ahead, assumed
from .contracts import purity_of
from .endings import GIVEN_BACK, lost
from .installation import Installation, claimant

REFUSED = Claim(Verdict.STALE)


class Here(NamedTuple):
    """The bundle, as far as its chains have to do with it.

    Attributes:
        installation: the app's.  hostname: of the worker.  token: of the bundle.
        claims: of its attempts; those of steps are added.
        queue: a report goes its ordinary way.
        note: the attempt that its process is at, for its parent.
        begins: an attempt is about to run, and its time counts from now.
        runs: whether a task is one that runs here.
        is_quiet: nobody listens to the events of its attempts, so a step may be made ready before it is claimed.
    """

    installation: Installation
    hostname: str
    token: str
    claims: dict[str, Claim]
    queue: Callable[[Report, bytes | None], None]
    note: Callable[[str], None]
    begins: Callable[[dict[str, Any]], None]
    runs: Callable[[str], bool]
    is_quiet: bool


class _Coming(NamedTuple):
    """A step whose claim is on its way, with the report of the one before it."""

    step: dict[str, Any]
    onward: Onward
    passage: Passage


class Steps:
    """The steps of one bundle.

    Args:
        here: the bundle.

    Attributes:
        clock_ms: Redis's clock ahead of time.monotonic(), ms.
    """

    def __init__(self, here: Here) -> None:
        self.clock_ms = 0
        self._here = here
        self._begun: set[str] = set()
        """Attempts that were begun as the next step of a chain."""
        self._ahead = Ahead(here.installation, here.hostname, here.queue, here.note)
        self._next: dict[str, Any] | None = None
        self._until = 0.0
        self._kept: tuple[Report, bytes] | None = None
        """What is reported together with the claim of the next step."""
        self._coming: _Coming | None = None
        self._passage: Passage | None = None
        self._pure: dict[str, bool] = {}
        """Task -> whether it is pure."""

    # -- one after another --------------------------------------------------------------------------

    def enters(self) -> None:
        """Another attempt of the bundle begins, perhaps with a chain."""
        self._ahead.is_over = False

    def precede(self, following: dict[str, Any] | None, until: float) -> None:
        """What begins now has this step behind it, which may begin before that instant of time.monotonic()."""
        self._next, self._until = following, until

    def goes_on(self, entry: dict[str, Any]) -> bool:
        """Whether the next step begins, now that an attempt has been left."""
        if self._coming is not None and self._coming.step is entry:  # left before it came to its claim
            self._arrived(self._coming)
        if self._coming is not None:
            return True
        kept, step = self._kept, self._next
        if kept is None or step is None:
            return False
        if time.monotonic() < self._until and self._proceed(*kept, step):
            self._kept = None
            return True
        self._tell_kept()
        return False

    def leave(self) -> None:
        """The bundle is over: all that is known is told."""
        if self._coming is not None:
            self._arrived(self._coming)
        self._tell_kept()
        self._ahead.settle()
        if self._passage is not None:
            self._passage.close()

    # -- reports ------------------------------------------------------------------------------------

    def takes(self, report: Report, output: bytes | None) -> bool | None:
        """Whether a report is told with the claim of the next step; None when nothing is to be told of its attempt."""
        small = output is not None and report.output == "inline" and len(output) <= chain.MOST_BYTES
        keeps = small and self._next is not None
        if not keeps:
            self._ahead.settle()
        if report.id in self._ahead.void:
            return None
        if self._kept is not None and self._kept[0].id == report.id:  # more of the same: what was said first stands
            if self._coming is not None:
                return None
            self._tell_kept()
        if keeps and output is not None:
            self._kept = report, output
            self._ask(report, output)
        return keeps

    def _tell_kept(self) -> None:
        """What was kept for the claim of a next step goes its ordinary way."""
        kept, self._kept = self._kept, None
        if kept is not None:
            self._ahead.settle()
            if kept[0].id not in self._ahead.void:
                self._here.queue(*kept)

    # -- claims -------------------------------------------------------------------------------------

    def chain_of(self, id_: str) -> str:
        """The token of an attempt that was begun as the next step of a chain; "" of others."""
        return self._here.token + CHAINED if id_ in self._begun else ""

    def is_step(self, id_: str) -> bool:
        """Whether an attempt was begun so, or may have been."""
        return id_ in self._begun

    @property
    def coming(self) -> str:
        """The step whose claim is on its way; "" for none."""
        return "" if self._coming is None else str(self._coming.step["id"])

    def claim_of(self, id_: str) -> Claim | None:
        """The claim of a step that is about to begin, waited for; None where none is on its way."""
        coming = self._coming
        return self._arrived(coming) if coming is not None and coming.step["id"] == id_ else None

    def _proceed(self, report: Report, output: bytes, step: dict[str, Any]) -> bool:
        """Report the one and claim the other, or begin that ahead; False when neither was done."""
        if self._ahead.is_over or not chain.bind(step, output):
            return False
        id_, here = str(step["id"]), self._here
        onward = chain.onward_of(report, output, step, here.token)
        if self._is_pure(step["task"]):
            self._begun.add(id_)
            here.claims[id_] = assumed(step, self.clock_ms + round(time.monotonic() * 1000))
            self._kept = None
            self._ahead.begins(onward)
            return id_ not in self._ahead.void
        self._ahead.settle()
        if report.id in self._ahead.void or self._ahead.is_over:
            return False
        here.note(id_)
        return self._patiently(step, onward).verdict is Verdict.GRANTED

    def _ask(self, report: Report, output: bytes) -> None:
        """The same, without waiting, where there is nothing else to see to. What is not sent is asked for later."""
        step, here = self._next, self._here
        if step is None or not here.is_quiet or self._ahead.is_busy or self._ahead.is_over:
            return
        if self._is_pure(step["task"]) or not here.runs(step["task"]) or time.monotonic() >= self._until:
            return
        if not chain.bind(step, output):
            return
        onward = chain.onward_of(report, output, step, here.token)
        here.note(onward.id)
        try:
            passage = self._passage = self._passage or Passage(here.installation.attempts(), claimant(here.hostname))
            passage.send(onward)
        except Exception:  # noqa: BLE001  no connection, or a time limit that came too late: it is asked for patiently
            return
        self._coming = _Coming(step, onward, passage)

    def _arrived(self, coming: _Coming) -> Claim:
        """The claim that was on its way. Refused, the chain ends, and the report goes its ordinary way."""
        self._coming = None
        try:
            claim = coming.passage.answer()
        except SoftTimeLimitExceeded:
            raise
        except Exception:  # noqa: BLE001  no answer: the same tokens again do no harm
            claim = self._patiently(coming.step, coming.onward)
        else:
            self._known(coming.step, claim)
        if claim.verdict is Verdict.GRANTED:
            self._kept = None
            self._here.begins(coming.step)
        else:
            self._tell_kept()
        return claim

    def _patiently(self, step: dict[str, Any], onward: Onward) -> Claim:
        """The claim of a step, through an outage."""
        here = self._here
        try:
            claim = chain.granted(here.installation, onward, here.hostname)
        except chain.OutcomeUnknown:
            self._tell_kept()  # again, perhaps; and should the next one count as begun, it goes back
            back = lost(GIVEN_BACK, "given back before its turn: Redis did not answer")
            token = here.token + CHAINED
            told = Report(onward.id, back.end, here.hostname, None, "none", back.error, chained=True, chain=token)
            here.queue(told, None)
            return REFUSED
        return self._known(step, claim or REFUSED)

    def _known(self, step: dict[str, Any], claim: Claim) -> Claim:
        if claim.verdict is Verdict.GRANTED:
            self._begun.add(step["id"])
            self._here.claims[step["id"]] = claim
        return claim

    def _is_pure(self, name: str) -> bool:
        """Whether a task has no effect but its output, as it says."""
        pure = self._pure.get(name)
        if pure is None:
            task = self._here.installation.app._tasks.get(name)
            pure = self._pure[name] = task is not None and purity_of(task) == "pure"
        return pure

    def tick(self, now: float) -> None:
        """From the ticker's thread."""
        self._ahead.tick(now)
