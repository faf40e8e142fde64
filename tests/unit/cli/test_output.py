r"""What reaches a terminal or a pipe: user text is escaped, rich's markup is text, JSON stays one document."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from scheduler.cli.output import Output, console_on, json_text, note, span, styled

NASTY = [
    "\x1b[31mred\x1b[0m",
    "\x9b31m C1",
    "[bold]markup[/bold] [link=http://x]y[/link]",
    ":smile: {braces} %s",
    "two\nlines\tand a tab",
    "\u202eright to left",
    "\r overwritten",
    "\x07\x08\x00",
    "Grüße 🌱 日本",
]


@pytest.mark.parametrize("text", NASTY)
def test_a_table_in_a_pipe_is_one_line_a_row(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Tabs and line ends of a cell cannot be taken for those of the table."""
    Output().table(["name", "number"], [[text, 3]])
    heading, row, rest = capsys.readouterr().out.split("\n")
    assert heading == "name\tnumber"
    assert row.endswith("\t3")
    assert row.count("\t") == 1
    assert row.replace("\t", "").isprintable()
    assert rest == ""


@pytest.mark.parametrize("text", NASTY)
def test_a_cell_on_a_terminal_is_plain_text(text: str) -> None:
    """No control character gets through, and what looks like markup is shown as it is."""
    cell = styled(text)
    assert cell.plain.isprintable()
    drawn = io.StringIO()
    Console(file=drawn, force_terminal=True, width=200).print(cell)
    assert "\x1b[31m" not in drawn.getvalue()
    if "[bold]" in text:
        assert cell.plain == text


@pytest.mark.parametrize("text", NASTY)
def test_a_table_on_a_terminal_shows_it_too(text: str) -> None:
    """The whole way: through Output, as if standard output were a terminal."""
    drawn = io.StringIO()
    out = Output()
    out.terminal = True
    console = console_on(drawn)

    class Terminal(Output):
        console = property(lambda self: console)

    terminal = Terminal()
    terminal.terminal = True
    terminal.table(["name"], [[text]])
    terminal.facts([("name", text)])
    assert all(c.isprintable() or c == "\n" for c in drawn.getvalue())


@given(st.recursive(st.none() | st.integers() | st.text(), lambda it: st.lists(it) | st.dictionaries(st.text(), it)))
def test_json_is_the_same_value_and_printable(value: object) -> None:
    """Read back it is what it was; on a terminal it does nothing but appear."""
    text = json_text(value)
    assert json.loads(text) == value
    assert text.isprintable()


def test_one_document_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    """And notes go elsewhere."""
    note("a word")
    Output("json").document({"a": ["ü", "\x1b"]})
    said = capsys.readouterr()
    assert json.loads(said.out) == {"a": ["ü", "\x1b"]}
    assert "\x1b" not in said.out
    assert said.err == "a word\n"


def test_a_pipe_gets_whole_cells(capsys: pytest.CaptureFixture[str]) -> None:
    """Only terminals are spared long ones."""
    Output().table(["text"], [["x" * 5_000]])
    assert "x" * 5_000 in capsys.readouterr().out
    assert len(styled("x" * 5_000).plain) < 300


@pytest.mark.parametrize(("ms", "text"), [(0, "0ms"), (999, "999ms"), (59_900, "59.9s"), (3_600_000, "1h00m")])
def test_durations_read_well(ms: int, text: str) -> None:
    """From milliseconds to hours."""
    assert span(ms) == text
