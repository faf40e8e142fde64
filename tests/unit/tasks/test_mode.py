"""The choice of a mode by three flags, without workers; and what a mode does, on SQLite, without a scheduler."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from scheduler.worker import Context, InvalidInput
from tasks.examples import mode
from tests.unit.core.played import Played

POLICY = [
    # changed, delta, kept, mode
    (False, False, False, "full"),
    (False, False, True, "skip"),
    (False, True, False, "full"),
    (False, True, True, "skip"),
    (True, False, False, "full"),
    (True, False, True, "full"),
    (True, True, False, "full"),
    (True, True, True, "incremental"),
]


@pytest.mark.parametrize(("changed", "delta", "kept", "wanted"), POLICY)
def test_the_flags_choose_the_mode(changed: bool, delta: bool, kept: bool, wanted: str) -> None:
    """Each row of the table is what the scheduler's core decides on the example's own graph."""
    play = Played(mode.graph())
    play.ends("look", {"changed": changed, "delta": delta, "kept": kept})
    assert play.values["mode"] == {"branch": wanted}
    assert play.sent == ["sync"]


@pytest.fixture
def do(tmp_path: Path) -> Callable[..., Any]:
    """`sync` under an idempotency key; what it gives, as JSON, is what its published schema says."""
    database = str(tmp_path / "copies.sqlite")

    def call(source: str, version: int, how: mode.Mode, key: str = "") -> dict[str, Any]:
        keyed = Context(key=key or f"{source}.{version}.{how}")
        found = mode.sync(source, version, how, database, ctx=keyed).model_dump(mode="json")
        jsonschema.validate(found, mode.sync.contract()["output_schema"])
        return found

    return call


def rows(tmp_path: Path, source: str) -> list[tuple[int, int]]:
    """What our copy has."""
    with closing(sqlite3.connect(tmp_path / "copies.sqlite")) as db:
        return db.execute("select id, amount from copies where source = ? order by id", (source,)).fetchall()


def test_each_mode_writes_what_it_says(do: Callable[..., Any], tmp_path: Path) -> None:
    """In full, then what has changed since, then nothing; the envelope has one form."""
    envelope = {"form": "sync/1", "source": "orders"}
    assert do("orders", 1, "full") == {
        **envelope, "mode": "full", "version": 1, "rows_written": 3, "rows_total": 3
    }  # fmt: skip
    assert rows(tmp_path, "orders") == [(1, 10), (2, 20), (3, 30)]
    assert do("orders", 2, "incremental") == {
        **envelope, "mode": "incremental", "version": 2, "rows_written": 2, "rows_total": 4
    }  # fmt: skip
    assert rows(tmp_path, "orders") == [(1, 10), (2, 20), (3, 35), (4, 40)]
    assert do("orders", 2, "skip") == {
        **envelope, "mode": "skip", "version": 2, "rows_written": 0, "rows_total": 4
    }  # fmt: skip
    assert rows(tmp_path, "orders") == [(1, 10), (2, 20), (3, 35), (4, 40)]


def test_both_ways_lead_to_the_same_copy(do: Callable[..., Any], tmp_path: Path) -> None:
    """By what has changed, and in full."""
    do("orders", 1, "full")
    do("orders", 2, "incremental")
    by_changes = rows(tmp_path, "orders")
    do("orders", 2, "full")
    assert rows(tmp_path, "orders") == by_changes


def test_a_second_attempt_finds_what_the_first_has_done(do: Callable[..., Any], tmp_path: Path) -> None:
    """Under the same key nothing is written again, whatever has happened to the copy meanwhile."""
    first = do("orders", 1, "full", key="n1")
    do("orders", 2, "incremental", key="n2")
    assert do("orders", 1, "full", key="n1") == first
    assert len(rows(tmp_path, "orders")) == 4


def test_a_refused_row_leaves_all_as_it_was(do: Callable[..., Any], tmp_path: Path) -> None:
    """A row before it was fine, and is not there either; the version is the old one."""
    do("broken", 1, "full")
    with pytest.raises(sqlite3.IntegrityError):
        do("broken", 2, "incremental")
    with pytest.raises(sqlite3.IntegrityError):
        do("broken", 2, "full")
    assert rows(tmp_path, "broken") == [(1, 5)]
    assert do("broken", 1, "skip")["version"] == 1


def test_look_tells_the_flags(do: Callable[..., Any], tmp_path: Path) -> None:
    """Of a source that was never copied, of one that is up to date, of one with news."""
    database = str(tmp_path / "copies.sqlite")
    assert mode.look("orders", 1, database) == mode.Flags(changed=True, delta=True, kept=False)
    do("orders", 1, "full")
    assert mode.look("orders", 1, database) == mode.Flags(changed=False, delta=True, kept=True)
    assert mode.look("orders", 2, database) == mode.Flags(changed=True, delta=True, kept=True)
    assert mode.look("ledger", 2, database) == mode.Flags(changed=True, delta=False, kept=False)
    with pytest.raises(InvalidInput, match="there are orders, ledger, broken"):
        mode.look("nowhere", 1, database)
