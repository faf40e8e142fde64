"""Does the archive take what it is given? Said when that changes: in the log, and in the store for `doctor`."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter

from ..errors import ArchiveError
from ..store.connection import REFUSED, UNREACHABLE
from ..store.ended import EndedRuns
from .pauses import Pauses

log = logging.getLogger("celeriac.scheduler")


class Standing:
    """What is known of the archive.

    Args:
        counts: of the scheduler.
        pauses: before it is tried again.
    """

    def __init__(self, counts: Counter[str], pauses: Pauses) -> None:
        self.pauses = pauses
        self._counts = counts
        self._told = False

    def broken(self, ended: EndedRuns | None, error: ArchiveError) -> float:
        """The archive does not take it: said once. Nothing is removed before the next try, in so many seconds."""
        self._counts["archive failures"] += 1
        if not self.pauses.now:
            log.warning("%s; ended runs stay in Redis until it does", error)
            self._told = False
            note(ended, archive_problem=error.reason[:500])
        return self.pauses.next()

    def works(self, ended: EndedRuns | None) -> None:
        """It took something."""
        if self.pauses.now:
            log.info("the archive works again")
        if not self._told:
            note(ended, archive_problem=None)
            self._told = True
        self.pauses.over()


def note(ended: EndedRuns | None, **facts: str | None) -> None:
    """For people; a Redis that is full takes no notes, and that must not keep runs from being removed."""
    if ended is not None:
        with contextlib.suppress(*UNREACHABLE, *REFUSED):
            ended.tell(**facts)
