"""How to bring a copy up to date: in full, by what has changed, or not at all, as three flags say.

    look -> mode: full | incremental | skip -> sync

`look` finds out what is possible, the choice is data on the graph, and `sync` does what was chosen, in one transaction
of SQLite. What it returns has one form, whatever the mode.

    changed  the source has something newer than our copy
    delta    the source can say what has changed
    kept     we have a copy to begin with
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from scheduler import Formula, Graph, Node
from scheduler.worker import Context, InvalidInput, executor

from .items import Ending, Item

QUICK = "interactive-low"
Mode = Literal["full", "incremental", "skip"]
Count = Annotated[int, Field(ge=0)]


class Source(NamedTuple):
    """Where rows come from: (id, amount, version since which it is so).  delta: it can say what has changed."""

    delta: bool
    rows: tuple[tuple[int, int, int], ...]

    def at(self, version: int, since: int = 0) -> list[tuple[int, int]]:
        """(id, amount) of the rows of a version, or of those that changed after `since`."""
        found = {id_: (amount, from_) for id_, amount, from_ in self.rows if from_ <= version}
        return [(id_, amount) for id_, (amount, from_) in sorted(found.items()) if from_ > since]


SOURCES = {
    "orders": Source(True, ((1, 10, 1), (2, 20, 1), (3, 30, 1), (3, 35, 2), (4, 40, 2))),
    "ledger": Source(False, ((1, 7, 1), (2, 8, 2))),
    "broken": Source(True, ((1, 5, 1), (2, 6, 2), (3, -1, 2))),  # an amount that the table refuses
}
"""Name -> source; what it has in a version is a matter of the script."""
_SCHEMA = """
create table if not exists copies (
    source text, id integer, amount integer check (amount >= 0), primary key (source, id)
);
create table if not exists versions (source text primary key, version integer not null);
create table if not exists applied (key text primary key, envelope text not null);
"""


class Flags(BaseModel):
    """What is possible; see above."""

    changed: bool
    delta: bool
    kept: bool


class Envelope(BaseModel):
    """What a sync has done, in the one form that all modes have."""

    model_config = ConfigDict(extra="forbid")

    form: Literal["sync/1"] = "sync/1"
    source: str
    mode: Mode
    version: Count
    rows_written: Count
    rows_total: Count


def _item(name: str, source: str, version: int, mode: str, written: int, total: int) -> Item:
    output = {"form": "sync/1", "mode": mode, "version": version, "rows_written": written, "rows_total": total}
    ends = {"": Ending(("look", f"mode: {mode}", "sync"), output)}
    return Item(name, {"source": source, "version": version}, ends)


ITEMS = (
    _item("orders, never copied", "orders", 1, "full", 3, 3),
    _item("orders, nothing new", "orders", 1, "skip", 0, 3),
    _item("orders, something new", "orders", 2, "incremental", 2, 4),
    _item("ledger, never copied", "ledger", 1, "full", 1, 1),
    _item("ledger, new, tells no changes", "ledger", 2, "full", 2, 2),
)
"""One after the other: each finds what the one before has left."""


@executor("mode.look", queue_class=QUICK, timeout=30, purity="idempotent")
def look(source: str, version: int, database: str) -> Flags:
    """What is possible for a source whose newest version is `version`."""
    with closing(_opened(database)) as db:
        kept = _version(db, source)
    return Flags(changed=kept is None or kept < version, delta=_source(source).delta, kept=kept is not None)


@executor("mode.sync", queue_class=QUICK, timeout=30, purity="keyed")
def sync(source: str, version: int, mode: Mode, database: str, ctx: Context) -> Envelope:
    """Bring the copy up to date, all of it or nothing; a second attempt of the same node finds what the first has done.

    Raises:
        sqlite3.IntegrityError: a row that the table refuses; nothing is changed then.
    """
    with closing(_opened(database)) as db, _transaction(db):
        done = db.execute("select envelope from applied where key = ?", (ctx.key,)).fetchone()
        if done is not None:
            return Envelope.model_validate_json(done[0])
        since = 0
        if mode == "full":
            db.execute("delete from copies where source = ?", (source,))
        else:
            since = _version(db, source) or 0
        rows = [] if mode == "skip" else _source(source).at(version, since)
        db.executemany("insert or replace into copies values (?, ?, ?)", [(source, *row) for row in rows])
        if mode != "skip":
            db.execute("insert or replace into versions values (?, ?)", (source, version))
        [total] = db.execute("select count(*) from copies where source = ?", (source,)).fetchone()
        now = _version(db, source) or 0
        envelope = Envelope(source=source, mode=mode, version=now, rows_written=len(rows), rows_total=total)
        db.execute("insert into applied values (?, ?)", (ctx.key, json.dumps(envelope.model_dump())))
        return envelope


def policy(flags: Node[Flags]) -> dict[str, Formula]:
    """Mode -> when; "full" is what is left."""
    changed, delta, kept = flags.out.changed, flags.out.delta, flags.out.kept
    return {"skip": ~changed & kept, "incremental": changed & delta & kept}


def graph(source: str = "orders", version: int = 1, database: str = "copies.sqlite") -> Graph:
    """One copy brought up to date."""
    g = Graph("sync")
    flags = g.add(look, source=source, version=version, database=database, key="look")
    mode = g.choice("mode", policy(flags), otherwise="full")
    g.returns(g.add(sync, source=source, version=version, mode=mode.out.branch, database=database, key="sync"))
    return g


def graph_of(item: Item, place: Path) -> Graph:
    """The graph of one item, on a database in the directory `place`."""
    return graph(**item.inputs, database=str(place / "copies.sqlite"))


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise InvalidInput(f"there is no source {name!r}; there are {', '.join(SOURCES)}")
    return SOURCES[name]


def _opened(database: str) -> sqlite3.Connection:
    db = sqlite3.connect(database, timeout=10.0, isolation_level=None)  # transactions begin where we say so
    db.executescript(_SCHEMA)
    return db


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("begin immediate")
    try:
        yield
    except BaseException:
        db.execute("rollback")
        raise
    db.execute("commit")


def _version(db: sqlite3.Connection, source: str) -> int | None:
    """Of our copy; None when there is none."""
    found = db.execute("select version from versions where source = ?", (source,)).fetchone()
    return None if found is None else int(found[0])
