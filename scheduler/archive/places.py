"""Where archived runs lie: a folder, or any place that fsspec knows by URL.

A file is there whole or not at all, and `write` returns only after it was read back and found to be what was
written. Files are for their owner alone (0600, in folders). Names are made from checked run ids, never from
what a user wrote. Errors of the file system come out as ArchiveError.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from ..errors import ArchiveError, SettingsError
from ..store.connection import REFUSED

Fill = Callable[[BinaryIO], None]
"""Writes a file's content."""
_PARTS = ".parts"
_BLOCK = 1 << 20


class Place(Protocol):
    """Where files lie. `shown` is its name for people, without a password."""

    shown: str

    def write(self, name: str, fill: Fill) -> None:
        """Store a file whole, in place of an older one of that name, and check it by reading it back."""
        ...

    def open(self, name: str) -> BinaryIO | None:
        """A file for reading, or None when there is none."""
        ...

    def move(self, name: str, to: str) -> None:
        """Give a file another name."""
        ...

    def names(self) -> list[str]:
        """All files, those written last first."""
        ...


class Folder:
    """A folder of this machine, or of a file system mounted here."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.shown = str(root)

    def write(self, name: str, fill: Fill) -> None:
        """Temporary file, fsync, rename, fsync of the folder, read back."""
        with _told(self.shown):
            path, parts = self.root / name, self.root / _PARTS
            for folder in (parts, path.parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            run = path.name.partition(".")[0]
            number, temporary = tempfile.mkstemp(prefix=f"{run}.", dir=parts)  # 0600
            try:
                with os.fdopen(number, "wb") as file:
                    written = _Hashed(file)
                    fill(written)  # type: ignore[arg-type]  # as much of a file as gzip needs
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
            _sync(path.parent)
            with path.open("rb") as file:
                _same(written, file, self.shown)
            for left in parts.glob(f"{run}.*"):  # of somebody who was killed
                left.unlink(missing_ok=True)

    def open(self, name: str) -> BinaryIO | None:
        """See Place."""
        with _told(self.shown):
            try:
                return (self.root / name).open("rb")
            except (FileNotFoundError, NotADirectoryError):
                return None

    def move(self, name: str, to: str) -> None:
        """See Place."""
        with _told(self.shown):
            (self.root / name).replace(self.root / to)

    def names(self) -> list[str]:
        """See Place."""
        found = []
        with _told(self.shown):
            for folder in self.root.glob("[0-9a-f][0-9a-f]"):
                with os.scandir(folder) as entries:
                    found += [(it.stat().st_mtime, f"{folder.name}/{it.name}") for it in entries]
        return [name for _, name in sorted(found, reverse=True)]


class Remote:
    """A place that fsspec reaches by URL, such as s3://bucket/prefix.

    Raises:
        SettingsError: fsspec, or what it needs for this kind of URL, is not installed.
    """

    def __init__(self, url: str, shown: str) -> None:
        self.shown = shown
        if importlib.util.find_spec("fsspec") is None:
            raise SettingsError(
                "archive_url", f"{shown} needs fsspec, which is not installed", "pip install 'celeriac[archive]'"
            )
        import fsspec

        try:
            self._files: Any
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as missing:
            raise SettingsError("archive_url", f"{shown}: {missing}", "Install what it names, or correct it") from None

    def write(self, name: str, fill: Fill) -> None:
        """A temporary file here, then all of it there, then read back."""
        with _told(self.shown), tempfile.NamedTemporaryFile(prefix="celeriac-") as file:
            written = _Hashed(file)
            fill(written)  # type: ignore[arg-type]  # as much of a file as gzip needs
            file.flush()
            there = self._path(name)
            self._files.makedirs(there.rpartition("/")[0], exist_ok=True)
            self._files.put_file(file.name, there)
            self._files.invalidate_cache()
            with self._files.open(there, "rb") as found:
                _same(written, found, self.shown)

    def open(self, name: str) -> BinaryIO | None:
        """See Place."""
        with _told(self.shown):
            try:
                found: BinaryIO = self._files.open(self._path(name), "rb")
            except FileNotFoundError:
                return None
            return found

    def move(self, name: str, to: str) -> None:
        """See Place."""
        with _told(self.shown):
            self._files.mv(self._path(name), self._path(to))

    def names(self) -> list[str]:
        """See Place; where the store tells no instants, in no order."""
        with _told(self.shown):
            self._files.invalidate_cache()
            try:
                found = self._files.find(self._root, detail=True)
            except FileNotFoundError:
                return []
        names = [(_written_at(it), path[len(self._root) :].strip("/")) for path, it in found.items()]
        return [name for _, name in sorted(names, reverse=True)]

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


def place_of(url: str) -> Place:
    """The place that a setting names: a path, file://, or a URL for fsspec.

    Raises:
        SettingsError: what the URL needs is not installed.
    """
    from ..settings import redacted

    if "://" not in url:
        return Folder(Path(url))
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Folder(Path(unquote(parts.path)))
    return Remote(url, redacted(url))


class _Hashed:
    """A file that is written and hashed on the way."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.size += len(data)
        self.digest.update(data)
        self._file.write(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()


def _same(written: _Hashed, file: BinaryIO, shown: str) -> None:
    """What lies there is what was written."""
    digest = hashlib.sha256()
    size = 0
    while block := file.read(_BLOCK):
        size += len(block)
        digest.update(block)
    if digest.digest() != written.digest.digest():
        raise ArchiveError(shown, f"of {written.size} bytes written {size} were read back, and they differ")


@contextlib.contextmanager
def _told(shown: str) -> Iterator[None]:
    """Whatever a file system says, as an ArchiveError. What a store's own client raises is not known here."""
    try:
        yield
    except (ArchiveError, SettingsError, *REFUSED):  # the last: Redis, while what is to be written is read
        raise
    except Exception as broken:
        raise ArchiveError(shown, f"{type(broken).__name__}: {broken}") from broken


def _sync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _written_at(info: Any) -> float:
    """When a remote file was written, as far as its store says so under one of the usual names."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        found = info.get(name) if isinstance(info, dict) else None
        if found is not None:
            at = getattr(found, "timestamp", lambda found=found: found)()
            if isinstance(at, int | float):
                return float(at)
    return 0.0
