"""The fast rows of the fault table, with one seed each and a smaller load: three graphs of 600 nodes, four kills.

`make faults` runs every row with the whole load; a row's own docstring says what must hold.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .__main__ import shown
from .rows import Row, all_rows, run_row

SEED = 1
SMALL = {"nodes": 600, "strikes": 4}
BUNDLED = (5, 18)
"""Fast rows that are tried with bundles too; `make faults BUNDLES=2` does so with any."""


@pytest.mark.slow
@pytest.mark.parametrize("row", [it for it in all_rows() if it.fast], ids=str)
def test_row(row: Row, tmp_path: Path) -> None:
    """Whatever is broken, nothing is lost: the row's bar holds."""
    result = run_row(row, SEED, tmp_path, options=SMALL)
    print(shown(result))
    assert not result.verdict.violations, shown(result)


@pytest.mark.slow
@pytest.mark.parametrize("row", [it for it in all_rows() if it.fast and it.number in BUNDLED], ids=str)
def test_row_with_bundles(row: Row, tmp_path: Path) -> None:
    """The same bar holds when the tasks of the base load share messages."""
    result = run_row(row, SEED, tmp_path, options={**SMALL, "bundle_seconds": 2.0})
    print(shown(result))
    assert not result.verdict.violations, shown(result)
    assert result.verdict.facts.get("lines of bundles"), "nothing travelled together: the row proved nothing"
