"""Does this Redis keep what it acknowledges? Asked when all is loaded anew, and once a minute while the loop works."""

from __future__ import annotations

import logging
import time
from typing import Any

from ..errors import StoreRefused
from ..settings import Settings, redacted
from ..store.health import look

log = logging.getLogger("celeriac.scheduler")

CHECK_SECONDS = 60.0
"""How often it is asked again: one that comes back may be configured anew."""


class Safety:
    """What is known of the server. Each problem is said when it is found first.

    Args:
        settings: redis_url must be set; strict schedulers refuse an unsafe server.
    """

    def __init__(self, settings: Settings) -> None:
        self._where = redacted(settings.redis_url or "")
        self._strict = settings.strict
        self._problems: set[str] = set()
        self._check_at = 0.0

    def check(self, client: Any, *, anew: bool = False) -> None:
        """Ask now. Three or four commands.

        Args:
            anew: it may be another server than the last time.

        Raises:
            StoreRefused: it does not keep what it acknowledges, and the settings are strict.
        """
        health = look(client, fsync=anew and self._strict)
        unsafe, found = health.unsafe(), health.problems()
        if unsafe and self._strict:
            raise StoreRefused(self._where, unsafe)
        for problem, remedy in found:
            if problem not in self._problems:
                refused = (problem, remedy) in unsafe
                word, hint = ("UNSAFE STORE", " Strict schedulers refuse it.") if refused else ("store", "")
                log.warning("%s: %s. %s%s", word, problem, remedy, hint)
        self._problems = {problem for problem, _ in found}
        self._check_at = time.monotonic() + CHECK_SECONDS

    def check_when_due(self, client: Any, now: float) -> None:
        """The same, when it is time."""
        if now >= self._check_at:
            self.check(client)
