"""The fault rows see what they are there to see: with one thing of the product broken, they turn red.

Two of the mutants; `make mutants` runs all of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .mutants import MUTANTS, NO_CLAIM, NO_FENCE, Mutant, copied, rows_of, seen, tried


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda it: it.what)
def test_each_mutant_can_still_be_made(mutant: Mutant, tmp_path: Path) -> None:
    """The text that it replaces stands in the product exactly once, and the rows that must see it are there."""
    assert copied(mutant, tmp_path).is_dir()
    assert rows_of(mutant)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [NO_CLAIM, NO_FENCE], ids=lambda it: it.what)
def test_a_row_turns_red_on_its_mutant(mutant: Mutant, tmp_path: Path) -> None:
    """Without the claim doubled messages run twice; without the fence a paused former owner corrupts a run."""
    [row] = rows_of(mutant)
    assert seen(mutant, tried(mutant, row, tmp_path))
