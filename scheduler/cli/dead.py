"""`celeriac dead ...`: list, show, redrive, drop what nobody could use.

Three kinds of letters: `record` (an inbox entry that could not be read), `message` (a broker message that a worker
rejected), `node` (its attempts were lost until its cap). Each says why, and what it belongs to.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import NotRedriven, escaped
from .output import Output, instant, note, output_option
from .place import Place, place_options, runs_of
from .status import FAILED

if TYPE_CHECKING:
    from ..store.dead import DeadLetter, DeadLetters

T = TypeVar("T")
KINDS = ("record", "message", "node")
_SHOWN_BYTES = 2_000


@click.group("dead")
def dead_command() -> None:
    """What nobody could use: look at it, put it back, drop it."""


def _kind_option(command: Callable[..., T]) -> Callable[..., T]:
    return click.option("--kind", type=click.Choice(KINDS), help="Only letters of this kind.")(command)


def _chosen(command: Callable[..., T]) -> Callable[..., T]:
    """Adds what says which letters are meant."""
    command = click.option("--yes", "-y", is_flag=True, help="Do not ask.")(command)
    command = _kind_option(command)
    command = click.option("--all", "every", is_flag=True, help="All letters, or all of --kind.")(command)
    return click.argument("ids", metavar="ID...", nargs=-1)(command)


@dead_command.command("ls")
@_kind_option
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@place_options
@output_option
def ls(kind: str | None, limit: int, place: Place, out: Output) -> None:
    """Dead letters, the newest first."""
    with place.for_reading() as settings:
        letters = _letters(settings)
        count, found = letters.count(), letters.newest(kind, limit)  # in this order: no letter is counted and not shown
    if out.json:
        out.document([_document(it) for it in found])
    else:
        rows = [[it.id, it.kind, instant(it.at_ms), _about(it), it.cause] for it in found]
        out.table(["letter", "kind", "since", "belongs to", "cause"], rows)
    if count.pushed_out:
        note(f"{count.pushed_out} older ones were pushed out by newer ones.")
    if count.here > len(found) and kind is None:
        note(f"{len(found)} of {count.here}; --limit shows more.")


@dead_command.command("show")
@click.argument("id_", metavar="ID")
@place_options
@output_option
def show(id_: str, place: Place, out: Output) -> None:
    """Everything that is known of one letter, and what it holds."""
    with place.for_reading() as settings:
        letter = _letters(settings).get(id_)
    if out.json:
        out.document(_document(letter, whole=True))
        return
    facts: list[tuple[str, Any]] = [("letter", letter.id), ("kind", letter.kind), ("cause", letter.cause)]
    facts += [("since", instant(letter.at_ms)), ("bytes", f"{letter.size}{' (cut)' if letter.cut else ''}")]
    facts += [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in letter.facts.items()]
    out.facts(facts)
    for name, value in letter.parts:
        out.line(f"{escaped(_text(name), 100)}: {escaped(_text(value), _SHOWN_BYTES)}")


@dead_command.command("redrive")
@_chosen
@place_options
@output_option
@click.pass_context
def redrive(
    ctx: click.Context, ids: tuple[str, ...], every: bool, kind: str | None, yes: bool, place: Place, out: Output
) -> None:
    """Put letters back: a record into its inbox, a message onto its queue, a node by retrying its run.

    A letter goes only after that. What cannot be put back stays, and the exit status is 1.
    """
    from ..service.redrive import Redrive

    settings = place.located()
    letters = _letters(settings)
    done: list[dict[str, str]] = []
    stayed = 0
    with closing(Redrive(letters, settings)) as put_back:
        for letter in _asked(letters, ids, every, kind, yes, "Put back"):
            try:
                where = put_back(letter)
            except NotRedriven as stays:
                stayed += 1
                note(str(stays))
            else:
                done.append({"letter": letter.id, "kind": letter.kind, "to": where})
                if not out.json:
                    out.line(f"{letter.id}\t{escaped(where, 300)}")
    if out.json:
        out.document(done)
    ctx.exit(FAILED if stayed else 0)


@dead_command.command("drop")
@_chosen
@place_options
@output_option
def drop(ids: tuple[str, ...], every: bool, kind: str | None, yes: bool, place: Place, out: Output) -> None:
    """Forget letters. What they held is gone."""
    letters = _letters(place.located())
    dropped = []
    for letter in _asked(letters, ids, every, kind, yes, "Drop"):
        if letters.take(letter):
            dropped.append(letter.id)
            if not out.json:
                out.line(letter.id)
    if out.json:
        out.document(dropped)


def _letters(settings: Any) -> DeadLetters:
    from ..store.dead import DeadLetters

    return DeadLetters(runs_of(settings))


def _asked(
    letters: DeadLetters, ids: tuple[str, ...], every: bool, kind: str | None, yes: bool, what: str
) -> Iterable[DeadLetter]:
    """The letters that are meant, after asking.

    Raises:
        click.UsageError: neither ids nor --all, or both; or nobody can be asked.
        DeadLetterNotFound: one of the ids is none.
    """
    if bool(ids) == every or (ids and kind):
        raise click.UsageError("name letters, or say --all (perhaps with --kind).")
    if not every:
        return [letters.get(id_) for id_ in dict.fromkeys(ids)]
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("--all needs --yes where nobody can be asked.")
        click.confirm(f"{what} all{f' of kind {kind}' if kind else ''}?", abort=True, err=True)
    return _every(letters, kind)


def _every(letters: DeadLetters, kind: str | None) -> Iterator[DeadLetter]:
    yield from letters.every(kind)


def _about(letter: DeadLetter) -> str:
    """What a letter belongs to, in a few words."""
    facts = letter.facts
    if letter.kind == "node":
        return f"run {facts.get('run')} node {facts.get('node')} ({facts.get('executor')})"
    if letter.kind == "message":
        return " ".join(f"{name} {facts[name]}" for name in ("queue", "task", "id") if facts.get(name))
    return f"{facts.get('record', '')} {facts.get('attempt', '')}".strip()


def _document(letter: DeadLetter, *, whole: bool = False) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": letter.id,
        "kind": letter.kind,
        "cause": letter.cause,
        "at_ms": letter.at_ms,
        "belongs_to": letter.facts,
        "bytes": letter.size,
        "cut": letter.cut,
    }
    if whole:
        document["holds"] = [{"name": _text(name), "value": _text(value)} for name, value in letter.parts]
    return document


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
