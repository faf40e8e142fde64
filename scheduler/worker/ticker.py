"""One thread in each process that runs bundles: it has them look at the clock."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bundle import Bundle

log = logging.getLogger(__name__)
TICK_SECONDS = 0.005


class Ticker:
    """One thread in each process that runs bundles; asleep while there are none."""

    def __init__(self) -> None:
        self._pid = 0
        self._watched: list[Bundle] = []
        self._wake = threading.Condition()

    def watch(self, bundle: Bundle) -> None:
        """Tick for this bundle."""
        if self._pid != os.getpid():  # a fork leaves threads with its parent
            self._pid, self._watched, self._wake = os.getpid(), [], threading.Condition()
            threading.Thread(target=self._run, name="celeriac-bundles", daemon=True).start()
        with self._wake:
            self._watched.append(bundle)
            self._wake.notify()

    def forget(self, bundle: Bundle) -> None:
        """It has ended."""
        with self._wake:
            self._watched.remove(bundle)

    def watched(self) -> list[Bundle]:
        """The bundles that run in this process."""
        return list(self._watched) if self._pid == os.getpid() else []

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: bool(self._watched))
            time.sleep(TICK_SECONDS)
            for bundle in list(self._watched):
                try:
                    bundle.tick()
                except Exception:
                    log.exception("a bundle could not be looked after")


TICKER = Ticker()
