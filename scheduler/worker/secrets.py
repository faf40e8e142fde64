"""Secrets of this worker: found by name right before a task runs, and kept out of all that is told of the attempt.

An input that stands for a secret (graph/secret.py) arrives as `{"$secret": name}`, and the message's header says where;
nothing else is ever taken for one, so an output that looks like a reference stays what it is. Looked for in this order:
what install(app, secrets=...) was given, the environment, the directory of CELERIAC_SECRETS_DIR. Read anew for every
attempt, so a secret may be changed while workers run.

While such an attempt runs, its values are masked in log records, in the exception, and in every text about it.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from ..errors import InvalidInput, SecretMissing, masked

MASK = "***"
PREFIX = "CELERIAC_SECRET_"
DIRECTORY = "CELERIAC_SECRETS_DIR"
LINE_CHARACTERS = 8
"""Of a secret of several lines, each line of at least this length is masked by itself too."""
_DEPTH = 6
_NAME = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,128}\Z")

Source = Callable[[str], "str | None"]


def variable_of(name: str) -> str:
    """The environment variable of a secret.

    >>> variable_of("smtp-password")
    'CELERIAC_SECRET_SMTP_PASSWORD'
    """
    return PREFIX + name.upper().replace("-", "_").replace(".", "_")


def find(name: str, source: Source | None = None) -> str:
    """A secret's value.

    Args:
        name: checked here, for messages come from elsewhere.
        source: as given to install().

    Raises:
        InvalidInput: that is no name of a secret.
        SecretMissing: this worker has none of that name.
    """
    if not _NAME.match(name):
        raise InvalidInput("the message refers to a secret by something that is no name")
    places = []
    if source is not None:
        found = source(name)
        if found is not None:
            return str(found)
        places.append("what install(secrets=...) was given")
    value = os.environ.get(variable_of(name))
    if value is not None:
        return value
    places.append(f"the environment variable {variable_of(name)}")
    directory = os.environ.get(DIRECTORY)
    if directory:
        try:
            return (Path(directory) / name).read_text(encoding="utf-8").removesuffix("\n")
        except OSError as problem:
            places.append(f"the file {name} in {DIRECTORY} ({type(problem).__name__})")
    else:
        places.append(f"no directory ({DIRECTORY} is not set)")
    raise SecretMissing(name, places)


class Resolved:
    """The secrets of one attempt: put into its arguments, and known by what they must not show up in."""

    def __init__(self) -> None:
        self._put: list[tuple[Any, Any, str, dict[str, Any]]] = []
        self._pattern: re.Pattern[str] | None = None

    @classmethod
    def into(cls, places: Iterable[Any], args: Any, kwargs: Any, source: Source | None) -> Resolved:
        """Exchange references for values, in place.

        Args:
            places: for each reference the path to it from [args, kwargs].

        Raises:
            SecretMissing: this worker lacks one.
            InvalidInput: there is no reference at such a place.
        """
        it = cls()
        values = set()
        for place in places:
            inner: Any = [args, kwargs]
            try:
                for step in place[:-1]:
                    inner = inner[step]
                reference = inner[place[-1]]
                if not isinstance(reference, dict) or len(reference) != 1:
                    raise TypeError
                name = reference["$secret"]
            except (LookupError, TypeError):
                raise InvalidInput(f"the message has no reference to a secret at {place!r}") from None
            value = find(str(name), source)
            values.add(value)
            it._put.append((inner, place[-1], value, reference))
        for inner, step, value, _ in it._put:
            inner[step] = value
        forms = {form for value in values for form in _forms(value)}
        if forms:
            it._pattern = re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True))))
        return it

    def take_back(self) -> None:
        """References stand in the arguments again, for whoever looks at the request once the task has run."""
        for inner, step, value, reference in self._put:
            try:
                if inner[step] is value:
                    inner[step] = reference
            except (LookupError, TypeError):  # the task has changed its arguments
                continue

    def masked(self, text: str) -> str:
        """A text without the values, and without the passwords of URLs."""
        return masked(text if self._pattern is None else self._pattern.sub(MASK, text))

    def cleaned(self, value: Any, depth: int = 0) -> Any:
        """A value without the values, as far down as plain data go; the same object when there is nothing in it."""
        if isinstance(value, str):
            clean = self.masked(value)
            return value if clean == value else clean
        if isinstance(value, bytes):
            text = value.decode("utf-8", "surrogateescape")
            clean = self.masked(text)
            return value if clean == text else clean.encode("utf-8", "surrogateescape")
        if depth < _DEPTH and type(value) in (list, tuple, set, frozenset):
            parts = [self.cleaned(it, depth + 1) for it in value]
            return value if all(a is b for a, b in zip(parts, value, strict=True)) else type(value)(parts)
        if depth < _DEPTH and type(value) is dict:
            pairs = {self.cleaned(k, depth + 1): self.cleaned(v, depth + 1) for k, v in value.items()}
            return value if all(pairs.get(k) is v for k, v in value.items()) else pairs
        if isinstance(value, BaseException):
            return self.exception(value, depth + 1)
        return value

    def exception(self, exc: BaseException, depth: int = 0) -> BaseException:
        """An exception without the values, changed in place where that can be, else another one in its stead."""
        seen: BaseException | None = exc
        while seen is not None and depth < _DEPTH:
            self._clean_exception(seen, depth)
            seen, depth = seen.__cause__ or seen.__context__, depth + 1
        try:
            text = f"{exc} {exc!r}"
        except Exception:  # noqa: BLE001  a foreign __str__ may do anything
            return exc
        if self.masked(text) == text:
            return exc
        kept = exc.__traceback__
        made = RuntimeError(self.masked(f"{type(exc).__name__}: {exc}"))
        made.exc_cls_name = type(exc).__name__  # type: ignore[attr-defined]  # read by endings.error_of
        return made.with_traceback(kept)

    def _clean_exception(self, exc: BaseException, depth: int) -> None:
        try:
            args = tuple(self.cleaned(it, depth + 1) for it in exc.args)
            if args != exc.args:
                exc.args = args
            for name, value in list(vars(exc).items()):
                clean = self.cleaned(value, depth + 1)
                if clean is not value:
                    setattr(exc, name, clean)
        except Exception:  # noqa: BLE001  an exception that lets nobody change it is replaced by the caller
            return

    def error_info(self, einfo: Any) -> None:
        """Celery's record of an exception, which its log lines and events are made from."""
        einfo.traceback = self.masked(str(einfo.traceback))
        wrapped = einfo.exception
        if isinstance(getattr(wrapped, "exc", None), BaseException) and isinstance(getattr(wrapped, "tb", None), str):
            wrapped.exc = self.exception(wrapped.exc)
            wrapped.tb = self.masked(wrapped.tb)
        elif isinstance(wrapped, BaseException):
            einfo.exception = self.exception(wrapped)


NO_SECRETS = Resolved()
"""Of attempts without any: takes the passwords of URLs out of texts, and nothing else."""


def _forms(value: str) -> Iterable[str]:
    """A value as it may stand in a text: as it is, inside quotes, in JSON, in a URL; a long one line by line too."""
    parts = {value, *(line.strip() for line in value.splitlines() if len(line.strip()) >= LINE_CHARACTERS)}
    for part in parts:
        if part:
            yield from {
                part,
                repr(part)[1:-1],
                json.dumps(part)[1:-1],
                json.dumps(part, ensure_ascii=False)[1:-1],
                quote(part, safe=""),
                quote_plus(part),
            }


def watch_logs(current: Callable[[], Resolved | None]) -> None:
    """From now on log records made while an attempt with secrets runs are masked. Again it does nothing.

    Args:
        current: the secrets of the attempt that runs here, or None.
    """
    make = logging.getLogRecordFactory()
    if getattr(make, "celeriac", False):
        return

    def masked_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        secrets = current()
        if secrets is not None:
            _mask_record(record, secrets)
        return record

    masked_record.celeriac = True  # type: ignore[attr-defined]  # how it knows itself again
    logging.setLogRecordFactory(masked_record)


def _mask_record(record: logging.LogRecord, secrets: Resolved) -> None:
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001  the handler will say what is wrong with it
        text = str(record.msg)
    clean = secrets.masked(text)
    if clean != text:
        record.msg, record.args = clean, ()
    if record.exc_info and record.exc_info[0] is not None:
        record.exc_text = secrets.masked(logging.Formatter().formatException(record.exc_info))
        record.exc_info = (record.exc_info[0], secrets.exception(record.exc_info[1]), None)
