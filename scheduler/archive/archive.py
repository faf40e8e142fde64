"""The archive: put a run there, find it again, list what is there.

The file of a run follows from its id alone: two characters of a hash of the id, so that no folder gets too large,
then the id. An id comes twice only where an idempotency key was used again after it was forgotten; then the older
run's file keeps its place under `<run>.<created at, ms>.jsonl.gz`.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, TypeVar

from ..errors import ArchiveError, RunArchived, RunNotFound, escaped
from ..store.ended import Ended, Piece
from ..store.runs import Runs
from ..store.summaries import Summary
from ..wire import RunId, is_run_id
from .lines import read, read_blob, read_first, write
from .places import Place, place_of
from .shelf import Shelf

T = TypeVar("T")

ENDING = ".jsonl.gz"
NOWHERE = "none"
"""The setting that says: ended runs may be thrown away."""
_DAMAGED = (ValueError, KeyError, TypeError, AttributeError, OSError, EOFError, zlib.error)


class _ChangedError(BaseException):
    """Ends a write before its file takes its place; no file system's error, so none of its callers takes it for one."""


class Archive:
    """One archive.

    Args:
        place: where its files lie.
    """

    def __init__(self, place: Place) -> None:
        self.place = place

    def put(
        self,
        namespace: str,
        it: Ended,
        pieces: Iterable[Piece],
        breathe: Callable[[], None] = lambda: None,
        unchanged: Callable[[], bool] = lambda: True,
    ) -> bool:
        """Store a run; returns when its file was read back and is what was written. Harmless to repeat.

        Args:
            unchanged: asked when everything is read and before the file takes its place: whether the run still is as
                `it` says. Else what was read may not be whole, for somebody else may have removed it meanwhile.

        Returns:
            False when nothing was stored, because the run has changed.

        Raises:
            ArchiveError: it is not stored, or not as it should be.
        """
        name = name_of(it.run)

        def fill(file: BinaryIO) -> None:
            write(file, namespace, it, pieces, breathe)
            if not unchanged():
                raise _ChangedError
            try:
                older = self._read(name, read_first)
            except ArchiveError:  # damaged, so written anew; or there is no answer, then writing will say so
                return
            if older is None:
                return
            if older.fields.get(b"created_at_ms") != it.fields.get(b"created_at_ms", b"0"):
                born = int(older.fields.get(b"created_at_ms", b"0"))
                self.place.move(name, f"{name.removesuffix(ENDING)}.{born}{ENDING}")
            elif older.ended_at_ms > it.at_ms:
                raise _ChangedError

        try:
            self.place.write(name, fill)
        except _ChangedError:
            return False
        return True

    def find(self, run: str, live: Runs | None = None) -> Shelf | None:
        """A run, to be read like the store, or None when it is not here.

        Raises:
            RunNotFound: that is not even the form of a run's id.
            ArchiveError: the archive does not answer, or the file is damaged.
        """
        name = name_of(run)
        found = self._read(name, read)
        if found is None:
            return None
        return Shelf(found, lambda key: self._read(name, lambda file: read_blob(file, key)), live)

    def summaries(self) -> Iterator[Summary]:
        """The runs here, those archived last first, each read when it is asked for; damaged files are passed over."""
        for name in self.place.names():
            if not name.endswith(ENDING) or not is_run_id(name.rpartition("/")[2].removesuffix(ENDING)):
                continue
            try:
                found = self._read(name, read_first)
            except ArchiveError:
                continue
            if found is not None:
                yield Shelf(found, lambda _: None).summary(found.run)

    def _read(self, name: str, how: Callable[[BinaryIO], T]) -> T | None:
        file = self.place.open(name)
        if file is None:
            return None
        try:
            with file:
                return how(file)
        except _DAMAGED as broken:
            raise ArchiveError(self.place.shown, f"{name} cannot be read: {broken}") from broken


def open_archive(url: str | None) -> Archive | None:
    """The archive that a setting names; None when it names none, or "none".

    Raises:
        SettingsError: the URL needs what is not installed.
    """
    return None if url is None or url == NOWHERE else Archive(place_of(url))


def archived_run(runs: Runs, url: str | None, run: RunId) -> Shelf:
    """A run that is not in the store any more, from the archive that a setting names.

    Args:
        runs: the store that does not have it.

    Raises:
        RunArchived: it was removed, and is not in that archive, or none is named.
        RunNotFound: nothing is known of such a run.
        ArchiveError: see Archive.find.
    """
    archive = open_archive(url)
    found = None if archive is None else archive.find(run, runs)
    if found is not None:
        return found
    if runs.remembered(run):
        what = "" if archive is None else f"It is not in {escaped(archive.place.shown, 200)}, which is named here"
        raise RunArchived(run, runs.archive_place(), what)
    place = runs.archive_place() if archive is None else None
    raise RunNotFound(run, None if place == NOWHERE else place)


def name_of(run: str) -> str:
    """Where a run's file lies in its archive.

    Raises:
        RunNotFound: that is no run's id; nothing else becomes part of a path.

    >>> name_of("01jd0c0000000000000000000a")
    'a6/01jd0c0000000000000000000a.jsonl.gz'
    """
    if not is_run_id(run):
        raise RunNotFound(run)
    return f"{hashlib.sha256(run.encode()).hexdigest()[:2]}/{RunId(run)}{ENDING}"
