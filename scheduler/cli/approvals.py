"""`celeriac approvals ...`, `celeriac signal`, `celeriac complete`: what people and programs outside tell a run.

Who answers is who says so: whoever may write to the installation's Redis may answer in any name. config/users.acl says
who that is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import AnswerRefused, escaped
from .output import Output, instant, json_text, note, output_option, span
from .place import Place, place_options, runs_of
from .runs import checked_id
from .sources import value_of

if TYPE_CHECKING:
    from ..store.approvals import Question
    from ..store.runs import Runs

T = TypeVar("T")


@click.group("approvals")
def approvals_command() -> None:
    """What people are asked: list, show and answer it."""


@approvals_command.command("ls")
@click.option("--by", metavar="NAME", help="Only what this person may answer now.")
@place_options
@output_option
def ls(by: str | None, place: Place, out: Output) -> None:
    """Questions that wait for an answer, the oldest first."""
    from ..store.approvals import questions

    with place.for_reading() as settings:
        runs = runs_of(settings)
        now = runs.now_ms()
        found = [it for it in questions(runs) if by is None or {by, "*"} & set(it.may_answer(now))]
    if out.json:
        out.document([_document(it, now) for it in found])
        return
    rows = []
    for it in found:
        left = "" if it.due_at_ms is None else span(max(0, it.due_at_ms - now))
        who = ", ".join(it.may_answer(now))
        rows.append([it.run, it.node, it.question, "/".join(it.choices), who, span(now - it.since_ms), left])
    out.table(["run", "node", "question", "choices", "who", "waits", "left"], rows)


@approvals_command.command("show")
@click.argument("run", metavar="RUN")
@click.argument("node", metavar="NODE")
@place_options
@output_option
def show(run: str, node: str, place: Place, out: Output) -> None:
    """One question: what is asked, what is shown to whoever answers, and who may."""
    with place.for_reading() as settings:
        runs = runs_of(settings)
        asked = _question(runs, run, node)
        now, (shown, mappers) = runs.now_ms(), _shown(runs, asked)
    if out.json:
        out.document({**_document(asked, now), "shown": shown, "mappers": mappers})
        return
    facts: list[tuple[str, Any]] = [("run", asked.run), ("graph", asked.graph), ("node", asked.node)]
    facts += [("question", asked.question), ("choices", ", ".join(asked.choices))]
    facts += [("who", ", ".join(asked.may_answer(now))), ("since", instant(asked.since_ms))]
    facts += [("until", instant(asked.due_at_ms))] if asked.due_at_ms else []
    facts += [("form", json_text(asked.form))] if asked.form is not None else []
    by = {name: f" by {', '.join(found)}" for name, found in mappers.items()}
    out.facts([*facts, *((f"shown: {name}{by.get(name, '')}", json_text(value)) for name, value in shown.items())])


def _answers(command: Callable[..., T]) -> Callable[..., T]:
    """Adds what every answer may carry."""
    for option in (
        click.option("--timeout", metavar="DURATION", default="30s", help="How long to wait for a scheduler."),
        click.option("--by", metavar="NAME", help="Who answers; default: you."),
        click.option("--comment", default="", help="Recorded with the answer."),
        click.option("--answer", metavar="JSON", help="What the form asks for besides; @FILE reads a file."),
    ):
        command = option(command)
    return click.argument("run", metavar="RUN")(click.argument("node", metavar="NODE")(command))


@approvals_command.command("answer")
@_answers
@click.argument("choice", metavar="CHOICE")
@place_options
@output_option
def answer(choice: str, place: Place, out: Output, **how: Any) -> None:
    """Answer a question by one of its choices."""
    _answer(choice, place, out, **how)


@approvals_command.command("approve")
@_answers
@place_options
@output_option
def approve(place: Place, out: Output, **how: Any) -> None:
    """Answer "approve"."""
    _answer("approve", place, out, **how)


@approvals_command.command("reject")
@_answers
@place_options
@output_option
def reject(place: Place, out: Output, **how: Any) -> None:
    """Answer "reject"."""
    _answer("reject", place, out, **how)


def _answer(choice: str, place: Place, out: Output, **how: Any) -> None:
    from ..client import Client

    said = None if how["answer"] is None else value_of(how["answer"])
    with Client(settings=place.located()) as client:
        handle = client.run(checked_id(how["run"]))
        handle.answer(how["node"], choice, said, comment=how["comment"], by=how["by"], timeout=how["timeout"])
    if out.json:
        out.document({"run": how["run"], "node": how["node"], "choice": choice})
    else:
        out.line(how["run"])


@click.command("signal")
@click.argument("run", metavar="RUN")
@click.argument("name", metavar="NAME")
@click.argument("payload", metavar="[JSON]", default="null")
@click.option("--key", default="", help="Idempotency key: a second signal of the same key changes nothing.")
@click.option("--by", metavar="NAME", help="Who sends it; default: you.")
@place_options
@output_option
def signal_command(run: str, name: str, payload: str, key: str, by: str | None, place: Place, out: Output) -> None:
    """Send a signal to a run; JSON, or @FILE, is its payload."""
    from ..client import Client

    with Client(settings=place.located()) as client:
        client.run(checked_id(run)).signal(name, value_of(payload), key=key, by=by)
    _asked(out, run)


@click.command("complete")
@click.argument("token", metavar="TOKEN")
@click.argument("output", metavar="[JSON]", default="null")
@click.option("--error", metavar="TYPE", help="The job failed: the type of its error, such as FarmBusy.")
@click.option("--kind", default="transient", show_default=True, help="The kind of that error.")
@click.option("--message", default="", help="The text of that error.")
@place_options
@output_option
def complete_command(
    token: str, output: str, error: str | None, kind: str, message: str, place: Place, out: Output
) -> None:
    """End a job that an attempt has begun and that somebody outside does; TOKEN is the attempt's id."""
    from ..client import Client

    failed = None if error is None else {"kind": kind, "type": error, "message": message}
    with Client(settings=place.located()) as client:
        client.complete(token, value_of(output), error=failed)
    _asked(out, token)


def _asked(out: Output, what: str) -> None:
    if out.json:
        out.document({"asked": what})
    else:
        out.line(what)
    note("Sent. The run's log tells what became of it; a scheduler must be running.")


def _question(runs: Runs, run: str, node: str) -> Question:
    """The question of one node.

    Raises:
        AnswerRefused: nothing is asked there.
    """
    from ..store.approvals import questions

    id_ = checked_id(run)
    runs.summary(id_)
    for it in questions(runs):
        if it.run == id_ and it.node == node:
            return it
    raise AnswerRefused(run, escaped(node), "it asks nobody now", "See `celeriac approvals ls`.")


def inputs_shown(runs: Runs, asked: Question) -> dict[str, Any]:
    """What whoever answers is to see: the node's inputs, with the outputs that they refer to."""
    return _shown(runs, asked)[0]


def _shown(runs: Runs, asked: Question) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The same, and for inputs that mappers make their names; where one makes nothing, its error is shown."""
    from ..core.inputs import mappers_at, resolve
    from ..core.mapping import Mappings
    from ..core.run import references
    from ..service.aside import fetcher

    run = runs.load(asked.run)
    template = run.inputs[asked.number]
    text, _ = resolve(
        run, template, runs.values(asked.run, references(template)), Mappings(fetcher(runs), strict=False)
    )
    found: dict[str, Any] = json.loads(f"[{text}]")[1]
    return found, mappers_at(template)


def _document(it: Question, now_ms: int) -> dict[str, Any]:
    found = it._asdict() | {"may_answer": it.may_answer(now_ms)}
    found["escalations"] = [step._asdict() for step in it.escalations]
    return found
