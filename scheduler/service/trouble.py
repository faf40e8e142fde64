"""What keeps the loop from working, said when it begins and when it is over, and not at every try."""

from __future__ import annotations

import logging
import time

log = logging.getLogger("celeriac.scheduler")

CALM_SECONDS = 1.0
"""How long it must have gone well before trouble counts as over: at the edge of a full Redis some writes pass."""


class Trouble:
    """One trouble at a time. `now` is its short name, "" when all is well."""

    def __init__(self) -> None:
        self.now = ""
        self._last = 0.0

    def is_(self, what: str, text: str) -> None:
        """There is trouble; `text` is logged when it is another than before."""
        self._last = time.monotonic()
        if what != self.now:
            self.now = what
            log.warning("%s", text)

    def is_over(self) -> bool:
        """It went well; whether that ends a trouble, or there was none."""
        if self.now:
            if time.monotonic() - self._last < CALM_SECONDS:
                return False
            log.warning("the store works again")
            self.now = ""
        return True
