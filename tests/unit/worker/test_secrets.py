"""Secrets in a worker: where they are found, how they get into arguments and out of everything else."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from billiard.einfo import ExceptionInfo

from scheduler.errors import InvalidInput, SecretMissing
from scheduler.worker import secrets
from scheduler.worker.secrets import Resolved, find, variable_of

WORD = "k3y/with 'quotes' & more"


@pytest.fixture(autouse=True)
def factory() -> Iterator[None]:
    """Log records are made as before after each test."""
    make = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(make)


def resolved(*values: str) -> Resolved:
    """The secrets of an attempt."""
    args = [{"$secret": str(n)} for n in range(len(values))]
    return Resolved.into([[0, n] for n in range(len(values))], args, {}, lambda name: values[int(name)])


def test_the_source_is_asked_first_then_environment_then_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first that has it answers; a file gives its text without the last line end."""
    monkeypatch.setenv("CELERIAC_SECRETS_DIR", str(tmp_path))
    (tmp_path / "db.main").write_text("from file\n")
    assert find("db.main") == "from file"
    monkeypatch.setenv("CELERIAC_SECRET_DB_MAIN", "from environment")
    assert find("db.main") == "from environment"
    assert find("db.main", lambda name: {"db.main": "from source"}[name]) == "from source"
    assert find("db.main", lambda name: None) == "from environment"


def test_a_missing_secret_is_named_with_where_it_was_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody has to guess the variable's name; no value of another secret is told."""
    monkeypatch.setenv("CELERIAC_SECRETS_DIR", str(tmp_path))
    with pytest.raises(SecretMissing) as missing:
        find("smtp-password", lambda name: None)
    assert (missing.value.kind, missing.value.name) == ("permanent", "smtp-password")
    for place in ("install(secrets=...)", "CELERIAC_SECRET_SMTP_PASSWORD", "CELERIAC_SECRETS_DIR"):
        assert place in str(missing.value)


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../../etc/passwd", "", "a\n", "x" * 129])
def test_a_message_cannot_lead_elsewhere(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The name is checked where it is used, since messages come over the broker."""
    monkeypatch.setenv("CELERIAC_SECRETS_DIR", str(tmp_path / "a"))
    with pytest.raises(InvalidInput):
        find(name)


def test_only_places_that_the_header_names_are_exchanged() -> None:
    """An output that looks like a reference stays what it is, and the arguments are put back afterwards."""
    args: list[Any] = [{"$secret": "a"}, {"$secret": "a"}]
    kwargs = {"deep": {"list": [0, {"$secret": "a"}]}}
    it = Resolved.into([[0, 0], [1, "deep", "list", 1]], args, kwargs, lambda name: WORD)
    assert args == [WORD, {"$secret": "a"}]
    assert kwargs == {"deep": {"list": [0, WORD]}}
    it.take_back()
    assert args[0] == {"$secret": "a"}
    assert kwargs["deep"]["list"][1] == {"$secret": "a"}


@pytest.mark.parametrize("place", [[0, 0], [0, 5], [1, "x"], [], [0, 0, "deep"]])
def test_a_place_without_a_reference_is_invalid(place: list[Any]) -> None:
    """A header that does not fit its message ends the attempt for good."""
    with pytest.raises(InvalidInput):
        Resolved.into([place], ["plain"], {}, lambda name: WORD)


def test_nothing_is_left_half_done_when_one_is_missing() -> None:
    """The arguments have no value in them when another secret is not there."""
    args: list[Any] = [{"$secret": "there"}, {"$secret": "gone"}]
    with pytest.raises(SecretMissing):
        Resolved.into([[0, 0], [0, 1]], args, {}, {"there": WORD}.get)
    assert args == [{"$secret": "there"}, {"$secret": "gone"}]


class Odd(Exception):
    """Keeps its text where nobody can change it."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self._parts = [{"inner": (word,)}]

    def __str__(self) -> str:
        return f"odd {self._parts[0]['inner'][0]}"


def raised(make: Any) -> BaseException:
    """An exception with a traceback and a cause, each with the word in it."""
    try:
        try:
            raise KeyError(WORD)
        except KeyError as cause:
            raise make(f"refused {WORD}") from cause
    except Exception as exc:  # noqa: BLE001  any kind is wanted
        return exc


@pytest.mark.parametrize(
    "make",
    [ValueError, KeyError, Odd, lambda text: UnicodeDecodeError("utf-8", text.encode(), 0, 1, text), OSError],
)
def test_exceptions_lose_the_word_whatever_they_are(make: Any) -> None:
    """Text, repr, cause, and the record that Celery makes log lines and events from."""
    it = resolved(WORD)
    exc = raised(make)
    einfo = ExceptionInfo((type(exc), exc, exc.__traceback__))
    assert WORD in str(einfo.traceback) or repr(WORD)[1:-1] in str(einfo.traceback)
    it.error_info(einfo)
    clean = it.exception(exc)
    for text in (str(clean), repr(clean), str(einfo.traceback), repr(einfo.exception.exc), einfo.exception.tb):
        assert it.masked(text) == text
        assert "k3y" not in text


@pytest.mark.parametrize("form", [str, repr, lambda it: quote(it, safe=""), quote_plus, json.dumps])
def test_every_usual_spelling_is_masked(form: Any) -> None:
    """As it is, quoted, in JSON, in a URL."""
    assert "k3y" not in resolved(WORD).masked(f"before {form(WORD)} after")


def test_a_key_of_several_lines_is_masked_line_by_line() -> None:
    """What wraps or indents it does not matter."""
    it = resolved("-----BEGIN-----\nMIIEabcdefgh\nxyzzyxyzzy\n-----END-----\n")
    assert it.masked("key:\n   MIIEabcdefgh\n   xyzzyxyzzy") == "key:\n   ***\n   ***"


def test_log_records_are_masked_while_the_attempt_runs_and_not_otherwise() -> None:
    """Of any logger, arguments and tracebacks included."""
    it = resolved(WORD)
    now: list[Resolved | None] = [it]
    secrets.watch_logs(lambda: now[0])
    secrets.watch_logs(lambda: None)
    log, out = logging.getLogger("tests.secrets"), io.StringIO()
    handler = logging.StreamHandler(out)
    log.addHandler(handler)
    log.propagate = False
    try:
        log.warning("first %s", WORD)
        try:
            raise ValueError(WORD)
        except ValueError:
            log.exception("second")
        assert out.getvalue().startswith("first ***\nsecond\nTraceback")
        assert "k3y" not in out.getvalue()
        now[0] = None
        log.warning("third %s", WORD)
        assert WORD in out.getvalue()
    finally:
        log.removeHandler(handler)


def test_variables_of_names() -> None:
    """Upper case, with underscores for what a shell does not take."""
    assert variable_of("a.b-c_d") == "CELERIAC_SECRET_A_B_C_D"
