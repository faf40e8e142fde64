"""`celeriac why RUN [NODE]`: why a node ran, waits, was passed over or failed, each fact with the id of its record.

Reads Redis, or the archive, alone. An id is that of a line of the run's log (`celeriac runs events`), or names the
record of a node. `--check` has the core decide the same again from nothing but what is cited.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from ..errors import escaped
from .output import Output, duration, json_option
from .place import Place, place_options
from .status import FAILED

if TYPE_CHECKING:
    from ..client import Explanation, Fact
    from ..client.explain import Reading, Step
    from ..settings import Settings
    from ..store.runs import Runs

_SHOWN_FACTS = 8
_SHOWN_DIFFERENCES = 20


def instant_of(_ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | float | None:
    """Callback of options that are an instant: ISO, taken for UTC without a zone; or a duration after the run's start.

    Raises:
        click.BadParameter: it is neither.
    """
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return 0.0 if value in ("0", "0s") else duration(_ctx, param, value)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


@click.command("why")
@click.argument("run")
@click.argument("node", required=False)
@click.option(
    "--at", callback=instant_of, metavar="T", help="As it stood then: 2026-11-28T12:00:00Z, or 90s after its start."
)
@click.option("--check", is_flag=True, help="Decide again from the cited facts; exit status 1 when anything differs.")
@place_options
@json_option
@click.pass_context
def why_command(
    ctx: click.Context,
    run: str,
    node: str | None,
    at: datetime | float | None,
    check: bool,
    place: Place,
    out: Output,
) -> None:
    """Why NODE of RUN stands where it stands, or what holds RUN up, from what is recorded alone."""
    from ..client.explain import Reading
    from .place import runs_with
    from .runs import checked_id

    with place.for_reading() as settings:
        runs = runs_with(settings, checked_id(run))
        reading = Reading(runs, checked_id(run), at, settings)
        found = reading.whole(check=check) if node is None else reading.node(node, check=check)
        differs = _differences(reading, found, check=check and node is None)
        overhead = "" if node is None else _overhead(reading, runs, reading.number(node), settings)
    if out.json:
        said = {"overhead": overhead} if overhead else {}
        out.document(document(found) | said | ({"differs": differs} if check else {}))
    else:
        show(found, out)
        if overhead:
            out.line(f"overhead: {overhead}")
        for told in differs[:_SHOWN_DIFFERENCES]:
            out.line(f"differs: {escaped(told, 2_000)}")
        if check and not differs:
            out.line("checked: the core decides the same of what is cited")
    if differs:
        ctx.exit(FAILED)


def _overhead(reading: Reading, runs: Runs, node: int, settings: Settings) -> str:
    """Whether a node took longer to get to its worker than to be done, and what to do about it."""
    from .overhead import of_node

    return of_node(reading.run, node, runs.contracts(), runs.paces(), settings.classes, settings.default_class.name)


def _differences(reading: Reading, found: Explanation, *, check: bool) -> list[str]:
    """What checks have found: of one node, or of all."""
    if not check:
        return found.differs
    return [f"node {key}: {told}" for key, told in reading.differs().items()]


def document(found: Explanation) -> dict[str, Any]:
    """An explanation for JSON: the model, states in words."""
    it = asdict(found)
    for step in (*it["steps"], *it["because"]):
        step["state"] = step["state"].word
    return it


def show(found: Explanation, out: Output) -> None:
    """An explanation as text: what happened in order, each with its facts under it."""
    who = f"node {escaped(found.node, 200)}" if found.node is not None else f"run {found.run}"
    out.line(f"{who} is {found.state}, as of {_clock(found.as_of_ms)}")
    for step in found.steps:
        _show_step(step, found.node or "", out)
    for wait in found.waits:
        out.line(f"  {_clock(wait.at_ms)}  waited: {escaped(wait.why, 500)}  [{wait.id}]")
    if found.because:
        out.line("because:" if found.node is not None else "nodes that ended badly by themselves:")
    for step in found.because:
        _show_step(step, "", out)
    for need in found.needs:
        out.line(f"needs: {need}")
    for gone in found.unknown:
        out.line(f"not known: {escaped(gone, 1_000)}")


def _show_step(step: Step, own: str, out: Output) -> None:
    name = f"{escaped(step.node, 200)} " if step.node != own else ""
    attempt = f" (attempt {step.attempt})" if step.attempt else ""
    why = f": {escaped(step.why, 1_000)}" if step.why else ""
    if step.id:
        out.line(f"  {_clock(step.at_ms)}  {name}{step.move}{attempt}{why}  [{step.id}]")
    elif step.facts:
        out.line(f"  {name}{step.state.word}")
    for fact in step.facts[:_SHOWN_FACTS]:
        out.line(f"      {_fact(fact)}")
    if len(step.facts) > _SHOWN_FACTS:
        out.line(f"      and {len(step.facts) - _SHOWN_FACTS} more facts; --json has all")
    if step.checked:
        out.line(f"      differs: {escaped(step.checked, 2_000)}")


def _fact(fact: Fact) -> str:
    return f"- {fact.text}  [{fact.id}]"


def _clock(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
