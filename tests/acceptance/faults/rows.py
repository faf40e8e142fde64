"""The rows of the fault table: how one is declared, found and run.

    @row(2, "scheduler kill -9 every 2-5 s", fast=True)
    def row_2(rigs: RigFactory, seed: int) -> Verdict:
        with rigs(schedulers=2) as rig:
            rig.start_all()
            loads = rig.submit_base()
            ...
            return rig.judge(loads, most_duplicates=60)

Rows stand in the modules rows_*.py of this package. What a row raises is a violation.
"""

from __future__ import annotations

import importlib
import pkgutil
import shutil
import time
import traceback
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .rig import Rig, Verdict

__all__ = ["Result", "RigFactory", "Row", "Verdict", "all_rows", "row", "run_row"]

RigFactory = Callable[..., Rig]
"""rigs(**options) -> a Rig in a fresh directory, with the row's seed."""
Body = Callable[[RigFactory, int], Verdict]


@dataclass(frozen=True)
class Row:
    """A row: its number in the table, what is done, how, and whether `make test` runs it."""

    number: int
    title: str
    body: Body
    fast: bool = False

    def __str__(self) -> str:
        return f"{self.number} {self.title}"


@dataclass
class Result:
    """What came of one run of a row."""

    row: Row
    seed: int
    seconds: float
    verdict: Verdict
    directory: Path | None = None
    """Where everything lies that a failed one left."""

    def record(self) -> dict[str, Any]:
        """As JSON."""
        it = self.verdict
        return {
            "row": self.row.number,
            "title": self.row.title,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "nodes": it.nodes,
            "starts": it.starts,
            "duplicates": it.duplicates,
            "violations": it.violations,
            "facts": it.facts,
        }


@dataclass
class _Rows:
    found: list[Row] = field(default_factory=list)
    read: bool = False


_rows = _Rows()


def row(number: int, title: str, *, fast: bool = False) -> Callable[[Body], Body]:
    """Declare a function a row of the table. Several rows may share a number: variants of one fault."""

    def declare(body: Body) -> Body:
        _rows.found = [it for it in _rows.found if (it.number, it.title) != (number, title)]
        _rows.found.append(Row(number, title, body, fast))
        return body

    return declare


def all_rows() -> list[Row]:
    """Every row of the package, in the order of their numbers."""
    if not _rows.read:
        for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
            if module.name.startswith("rows_"):
                importlib.import_module(f"{__package__}.{module.name}")
        _rows.read = True
    return sorted(_rows.found, key=lambda it: (it.number, it.title))


def run_row(it: Row, seed: int, home: Path, *, keep: bool = False, options: dict[str, Any] | None = None) -> Result:
    """Run a row once; never raises because of what the row does.

    Args:
        home: a directory of its own is made below it, and removed when all was well, unless `keep`.
        options: of every Rig, unless the row names them itself.
    """
    slug = "".join(c for c in it.title if c.isalnum())[:8]  # short, for sockets are in it; titles begin alike
    place = home / f"row{it.number}-{slug}-{zlib.crc32(it.title.encode()):08x}-seed{seed}"
    made: list[Rig] = []

    def rigs(**wanted: Any) -> Rig:
        directory = place / f"rig{len(made) + 1}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        rig = Rig(directory, seed, **{**(options or {}), **wanted})
        made.append(rig)
        return rig

    began = time.monotonic()
    try:
        verdict = it.body(rigs, seed)
    except Exception as broken:  # noqa: BLE001  whatever it is, the row has failed
        trace = "".join(traceback.format_exception(broken))
        found = [violation for rig in made if rig.verdict is not None for violation in rig.verdict.violations]
        verdict = Verdict([*found, f"the row stumbled: {trace}"])
    seconds = time.monotonic() - began
    if verdict.violations or keep:
        return Result(it, seed, seconds, verdict, place)
    shutil.rmtree(place, ignore_errors=True)
    return Result(it, seed, seconds, verdict)
