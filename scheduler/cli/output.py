"""How commands speak: tables, facts and documents on standard output, notes on standard error.

On a terminal a table is drawn by rich; in a pipe it is tab-separated text with one heading line; with `-o json` the
command's one document. Text from outside is escaped on the way, so neither control characters nor rich's own markup
reach a terminal. Pure apart from writing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import escaped

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

T = TypeVar("T")

CELL_CHARACTERS = 200
"""A longer cell is cut on a terminal; pipes and JSON get the whole text."""

STATE_STYLES = {
    "succeeded": "green",
    "failed": "bold red",
    "upstream_failed": "red",
    "cancelled": "magenta",
    "skipped": "dim",
    "running": "cyan",
    "dispatched": "cyan",
    "waiting": "yellow",
    "cancelling": "yellow",
    "ok": "green",
    "note": "yellow",
    "wrong": "bold red",
}

Cell = str | int | float | None


class Output:
    """Where a command puts what it found.

    Args:
        form: "text" or "json".

    Attributes:
        json: whether one JSON document is wanted.  terminal: whether a person reads standard output directly.
    """

    def __init__(self, form: str = "text") -> None:
        self.json = form == "json"
        self.terminal = not self.json and sys.stdout.isatty()

    @property
    def console(self) -> Console:
        """Standard output for rich; only asked for on terminals."""
        return console_on(sys.stdout)

    def document(self, value: Any) -> None:
        """The one JSON document of this command."""
        click.echo(json_text(value, indent=2 if sys.stdout.isatty() else None))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]], title: str = "") -> None:
        """Rows under headings: drawn on a terminal, tab-separated elsewhere. A column `state` is coloured."""
        if not self.terminal:
            click.echo("\t".join(columns))
            for row in rows:
                click.echo("\t".join(_field(cell) for cell in row))
            return
        from rich import box
        from rich.table import Table

        table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        for number, column in enumerate(columns):
            numeric = bool(rows) and all(isinstance(row[number], int | float) for row in rows)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(styled(cell) for cell in row))
        self.console.print(table)

    def facts(self, pairs: Sequence[tuple[str, Cell]]) -> None:
        """Names and values, one line each."""
        if not self.terminal:
            for name, value in pairs:
                click.echo(f"{name}\t{_field(value)}")
            return
        from rich.table import Table

        grid = Table.grid(padding=(0, 2))
        for name, value in pairs:
            grid.add_row(styled(name, "dim"), styled(value))
        self.console.print(grid)

    def line(self, text: str) -> None:
        """One line of data, our own words or escaped ones."""
        click.echo(text)


def note(text: str) -> None:
    """A message beside the data; text from outside in it must be escaped already."""
    click.echo(text, err=True)


def console_on(stream: Any) -> Console:
    """A rich console that takes nothing in texts for markup, emoji names or links."""
    from rich.console import Console

    return Console(file=stream, markup=False, emoji=False, highlight=False, soft_wrap=False)


def styled(cell: Cell, style: str = "") -> Text:
    """A cell for rich: escaped, cut, never markup; words of states in their colour."""
    from rich.text import Text

    text = escaped(_plain(cell), CELL_CHARACTERS)
    return Text(text, style=style or STATE_STYLES.get(text, ""))


def json_text(value: Any, *, indent: int | None = None) -> str:
    r"""JSON whose strings hold no unprintable character as such, whatever a terminal would do with it.

    >>> print(json_text({"a": "\x9b31m ü \U000e0001"}))
    {"a": "\u009b31m ü \udb40\udc01"}
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=str)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _plain(cell: Cell) -> str:
    if cell is None:
        return ""
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def _field(cell: Cell) -> str:
    """A cell for tab-separated text: whole, on one line, without a tab of its own."""
    text = _plain(cell)
    return escaped(text, len(text) + 1)


def instant(at_ms: int | None) -> str:
    """An instant as people read it, UTC.

    >>> instant(1_700_000_000_000)
    '2023-11-14 22:13:20Z'
    """
    return "" if not at_ms else datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def span(ms: float | None) -> str:
    """A duration as people read it.

    >>> span(12), span(3_400), span(75_000), span(7_380_000), span(None)
    ('12ms', '3.4s', '1m15s', '2h03m', '')
    """
    if ms is None:
        return ""
    if ms < 1000:
        return f"{round(ms)}ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f}s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    return f"{minutes}m{seconds:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def counts_in_words(counts: Mapping[str, int]) -> str:
    """State -> number, as one phrase.

    >>> counts_in_words({"succeeded": 3, "failed": 0, "running": 1})
    'succeeded 3, running 1'
    """
    return ", ".join(f"{state} {number}" for state, number in counts.items() if number)


def duration(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """Callback of options that are durations: `90`, `0.5`, `500ms`, `10m`, `2h`, `1d` in seconds.

    Raises:
        click.BadParameter: it is none.
    """
    from ..errors import InvalidValue
    from ..graph.limits import seconds_of

    if value is None:
        return None
    try:
        return seconds_of(float(value) if value.replace(".", "", 1).isdecimal() else value, "duration")
    except InvalidValue as wrong:
        raise click.BadParameter(f"{wrong.found} {wrong.problem}. {wrong.remedy}") from None


def output_option(command: Callable[..., T]) -> Callable[..., T]:
    """Adds `-o text|json`; the command gets an `Output` as its argument `out`."""

    @click.option(
        "-o",
        "--output",
        "out",
        type=click.Choice(["text", "json"]),
        default="text",
        callback=lambda _ctx, _param, form: Output(form),
        help="One JSON document instead of text.",
    )
    @wraps(command)
    def with_output(*args: Any, **kwargs: Any) -> T:
        return command(*args, **kwargs)

    return with_output


def json_option(command: Callable[..., T]) -> Callable[..., T]:
    """`output_option`, with `--json` as a short way to say `-o json`."""

    @output_option
    @click.option("--json", "as_json", is_flag=True, help="The same as -o json.")
    @wraps(command)
    def with_json(*args: Any, out: Output, as_json: bool, **kwargs: Any) -> T:
        return command(*args, out=Output("json") if as_json else out, **kwargs)

    return with_json
