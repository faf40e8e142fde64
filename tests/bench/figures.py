"""Figures: several measurements of one thing, their middle and spread, and tables of them. Pure.

A ratio is taken repeat by repeat, of two systems that ran in the same turn on the same Redis, and then has
a middle and a spread of its own: what else the machine did meanwhile hits both sides of a turn alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing.

    >>> str(Spread.of([3.0, 1.0, 2.0]))
    '2 (1-3)'
    """

    middle: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Median, least and greatest.

        Raises:
            ValueError: there are no values.
        """
        found = list(values)
        if not found:
            raise ValueError("no measurement was taken; a figure needs at least one")
        return cls(median(found), min(found), max(found), len(found))

    def __str__(self) -> str:
        if self.count == 1:
            return f"{shown(self.middle)}, 1 run"
        return f"{shown(self.middle)} ({shown(self.low)}-{shown(self.high)})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ours by theirs, turn by turn; a turn that one side did not finish is left out.

    >>> str(ratio([1.0, 2.0], [2.0, 2.0]))
    '0.75 (0.5-1)'
    """
    return Spread.of(a / b for a, b in zip(ours, theirs, strict=False) if b)


def shown(value: float) -> str:
    """Three significant digits, thousands grouped.

    >>> shown(0.01234), shown(12.34), shown(123456.7)
    ('0.0123', '12.3', '123,457')
    """
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the first is flush left, the others flush right.

    >>> print(table(["what", "n"], [["a", "10"]]))
    what   n
    ----  --
    a     10
    """
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
