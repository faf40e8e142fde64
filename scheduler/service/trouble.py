"""What keeps the loop from working, said when it begins and when it is over, and not at every try."""

from __future__ import annotations

import logging
import time
from collections import Counter

from ..settings import Settings, redacted
from ..store.connection import DISK, FULL, LOGIN, RIGHTS, UNREACHABLE, denial, refusal
from .pauses import Pauses

log = logging.getLogger("celeriac.scheduler")

RETRY_SECONDS = (0.1, 5.0)
"""First and longest wait before Redis is tried again."""
CALM_SECONDS = 1.0
"""How long it must have gone well before trouble counts as over: at the edge of a full Redis some writes pass."""

AWAY = "away"
_WORDS = {
    FULL: "is full (maxmemory); nothing is lost, and it is tried again",
    DISK: "cannot write to its disk; nothing is lost, and it is tried again",
    LOGIN: "refuses the login; correct user and password in CELERIAC_REDIS_URL, or in Redis (SECURITY.md tells how). "
    "It is tried again every few seconds",
    RIGHTS: "does not let this user do a scheduler's work; give it the rights of the user `scheduler` in "
    "config/users.acl. It is tried again every few seconds",
    AWAY: "does not answer; it is tried again every few seconds",
}


def named(error: BaseException) -> str:
    """The short name of what keeps the loop: a key of the words above; "" for what is nobody's fault but ours."""
    return denial(error) or refusal(error) or (AWAY if isinstance(error, UNREACHABLE) else "")


class Trouble:
    """One trouble at a time. `now` is its short name, "" when all is well.

    Args:
        settings: redis_url must be set.
        counts: of the scheduler; how often it had to wait for a Redis that answers.

    Attributes:
        pauses: before everything is tried again.
    """

    def __init__(self, settings: Settings, counts: Counter[str]) -> None:
        self.now = ""
        self._where = redacted(settings.redis_url or "")
        self._counts = counts
        self._last = 0.0
        self.pauses = Pauses(*RETRY_SECONDS)

    def note(self, error: BaseException) -> bool:
        """Whether it is trouble with Redis, which is said when it is another than before."""
        what = named(error)
        if not what:
            return False
        self._last = time.monotonic()
        self._counts["waits"] += what != AWAY
        if what != self.now:
            self.now = what
            level = logging.ERROR if what in (LOGIN, RIGHTS) else logging.WARNING
            said = " ".join(str(error).split())[:300]
            log.log(level, "%s %s (%s: %s)", self._where, _WORDS[what], type(error).__name__, said)
        return True

    def went_well(self) -> None:
        """A turn did; that ends a trouble when the last is some time ago."""
        if self.now:
            if time.monotonic() - self._last < CALM_SECONDS:
                return
            log.warning("the store works again")
            self.now = ""
        self.pauses.over()
