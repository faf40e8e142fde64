"""The fast rows of the fault table, with one seed each and a smaller load: three graphs of 600 nodes, four kills.

`make faults` runs every row with the whole load; a row's own docstring says what must hold. Where nothing is struck
while the load lasts, half of the nodes show the same: the mutants of these rows are seen with as few, or fewer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .__main__ import shown
from .rows import Row, all_rows, run_row

SEED = 1
SMALL = {"nodes": 600, "strikes": 4}
FEWER = {"nodes": 300}
UNHURRIED = (1, 18, 20)
"""Rows that do the same whatever the number of nodes, and need no load that lasts: nothing comes at an instant."""
BUNDLED = (5, 18)
"""Fast rows that are tried with bundles too; `make faults BUNDLES=2` does so with any."""


def small(row: Row) -> dict[str, Any]:
    """The load of a row."""
    return {**SMALL, **(FEWER if row.number in UNHURRIED else {})}


@pytest.mark.slow
@pytest.mark.parametrize("row", [it for it in all_rows() if it.fast], ids=str)
def test_row(row: Row, tmp_path: Path) -> None:
    """Whatever is broken, nothing is lost: the row's bar holds."""
    result = run_row(row, SEED, tmp_path, options=small(row))
    print(shown(result))
    assert not result.verdict.violations, shown(result)


@pytest.mark.slow
@pytest.mark.parametrize("row", [it for it in all_rows() if it.fast and it.number in BUNDLED], ids=str)
def test_row_with_bundles(row: Row, tmp_path: Path) -> None:
    """The same bar holds when the tasks of the base load share messages."""
    result = run_row(row, SEED, tmp_path, options={**small(row), "bundle_seconds": 2.0})
    print(shown(result))
    assert not result.verdict.violations, shown(result)
    assert result.verdict.facts.get("lines of bundles"), "nothing travelled together: the row proved nothing"
