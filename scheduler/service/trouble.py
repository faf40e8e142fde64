"""What keeps the loop from working, said when it begins and when it is over, and not at every try."""

from __future__ import annotations

import logging
import time

from ..store.connection import DISK, FULL, LOGIN, RIGHTS, UNREACHABLE, denial, refusal

log = logging.getLogger("celeriac.scheduler")

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
    """One trouble at a time. `now` is its short name, "" when all is well."""

    def __init__(self) -> None:
        self.now = ""
        self._last = 0.0

    def is_(self, what: str, where: str, error: BaseException) -> None:
        """There is trouble of that name with the Redis at `where`; said when it is another than before."""
        self._last = time.monotonic()
        if what != self.now:
            self.now = what
            level = logging.ERROR if what in (LOGIN, RIGHTS) else logging.WARNING
            said = " ".join(str(error).split())[:300]
            log.log(level, "%s %s (%s: %s)", where, _WORDS[what], type(error).__name__, said)

    def is_over(self) -> bool:
        """It went well; whether that ends a trouble, or there was none."""
        if self.now:
            if time.monotonic() - self._last < CALM_SECONDS:
                return False
            log.warning("the store works again")
            self.now = ""
        return True
