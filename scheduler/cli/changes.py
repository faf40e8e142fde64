"""What operators change for all runs at once: who and why, and the list of such changes; for commands that do so."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import click

from .output import Output, instant

F = TypeVar("F", bound=Callable[..., Any])

history_option = click.option("--history", is_flag=True, help="The changes, the newest first.")


def who_and_why(command: F) -> F:
    """The options `--by` and `--reason`, which are kept with a change."""
    command = click.option("--reason", default="", help="Why; kept with the change.")(command)
    return click.option("--by", help="Who you are [default: your login].")(command)


def login_of(by: str | None) -> str:
    """Who makes a change: as was said, else the user that this process belongs to."""
    if by is not None:
        return by
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a passwd entry; KeyError before Python 3.13
        return ""


def show_changes(out: Output, changes: Iterable[Mapping[str, Any]], **absent: str) -> None:
    """Changes as a table, or as they are for JSON.

    Args:
        changes: with `by`, `reason` and `at_ms`, the newest first.
        absent: name of each further column -> what stands there for "".
    """
    found = list(changes)
    if out.json:
        out.document(found)
        return
    rows = [
        [instant(it["at_ms"]), *(it[name] or shown for name, shown in absent.items()), it["by"], it["reason"]]
        for it in found
    ]
    out.table(["when", *absent, "by", "reason"], rows)
