"""`celeriac runs skip|complete|rerun|deadline|priority`: what a person asks of the nodes of a run, and of its limits.

Each waits for the scheduler's answer, and is recorded with who asked and why.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from .output import Output, note, output_option
from .place import Place, place_options

if TYPE_CHECKING:
    from ..client.handle import RunHandle


def asking(command: Callable[..., None]) -> Callable[..., None]:
    """Adds what requests have in common: why, who, and how long to wait."""
    command = output_option(place_options(command))
    command = click.option("--timeout", metavar="DURATION", default="30s", help="How long to wait for a scheduler.")(
        command
    )
    command = click.option("--by", help="Who asks; the user of this process when not given.")(command)
    return click.option("--reason", default="", help="Recorded with the run.")(command)


def _ask(run: str, place: Place, out: Output, verb: Callable[[RunHandle], Any]) -> None:
    """Do it, and print the run's id."""
    from ..client import Client
    from .runs import checked_id

    with Client(settings=place.located()) as client:
        verb(client.run(checked_id(run)))
    if out.json:
        out.document({"run": run})
    else:
        out.line(run)


@click.command("skip")
@click.argument("run")
@click.argument("key")
@asking
def skip(run: str, key: str, reason: str, by: str | None, timeout: str, place: Place, out: Output) -> None:
    """Pass over the node KEY of RUN, which has not been sent: it counts as skipped."""
    _ask(run, place, out, lambda it: it.skip(key, reason, by, timeout=timeout))


@click.command("complete")
@click.argument("run")
@click.argument("key")
@click.argument("output", metavar="JSON")
@asking
def complete(
    run: str, key: str, output: str, reason: str, by: str | None, timeout: str, place: Place, out: Output
) -> None:
    """Give the node KEY of RUN the output JSON by hand ("-" reads it from standard input); it has succeeded then.

    A node that had failed is completed in a new epoch, and what came after it runs anew, also when RUN has ended.
    """
    text = sys.stdin.read() if output == "-" else output
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as wrong:
        raise click.UsageError(f"the output is not JSON: {wrong}. Text stands in quotes: '\"text\"'.") from None
    _ask(run, place, out, lambda it: it.complete(key, value, reason, by, timeout=timeout))


@click.command("rerun")
@click.argument("run")
@click.option("--from", "keys", metavar="KEY", multiple=True, required=True, help="From this node on; may be repeated.")
@click.option("--preview", is_flag=True, help="Only list what would run again.")
@asking
def rerun(
    run: str,
    keys: tuple[str, ...],
    preview: bool,
    reason: str,
    by: str | None,
    timeout: str,
    place: Place,
    out: Output,
) -> None:
    """Run nodes of RUN again, and all that follows from them, whether it has ended or not."""
    from ..client import Client
    from .runs import checked_id

    with Client(settings=place.located()) as client:
        plan = client.run(checked_id(run)).rerun(keys, reason, by, preview=preview, timeout=timeout)
    if out.json:
        nodes = [{"key": key, "state": state.word} for key, state in plan]
        out.document({"run": run, "preview": preview, "nodes": nodes})
    elif preview:
        out.table(["node", "state"], [[key, state.word] for key, state in plan])
    else:
        out.line(run)
        note(f"{len(plan)} node{'' if len(plan) == 1 else 's'} will run again.")


@click.command("deadline")
@click.argument("run")
@click.argument("when", metavar="DURATION|none")
@asking
def deadline(run: str, when: str, reason: str, by: str | None, timeout: str, place: Place, out: Output) -> None:
    """Set by when RUN has ended or fails: DURATION from now, such as 90s, 10m or 2h; "none" takes it away."""
    _ask(run, place, out, lambda it: it.set_deadline(None if when == "none" else when, reason, by, timeout=timeout))


@click.command("priority", context_settings={"ignore_unknown_options": True})
@click.argument("run")
@click.argument("priority", metavar="-9..9", type=int)
@asking
def priority(run: str, priority: int, reason: str, by: str | None, timeout: str, place: Place, out: Output) -> None:
    """Set whose ready nodes go first within a queue class; those of runs with a lower one wait meanwhile."""
    _ask(run, place, out, lambda it: it.set_priority(priority, reason, by, timeout=timeout))


def cancel_nodes(
    run: str,
    keys: tuple[str, ...],
    region: str | None,
    at_once: bool,
    reason: str,
    by: str | None,
    timeout: str,
    place: Place,
    out: Output,
) -> None:
    """`runs cancel` of nodes and of a region; the run goes on."""

    def verb(it: RunHandle) -> None:
        if region is not None:
            it.cancel_region(region, reason, by, at_once=at_once, timeout=timeout)
        if keys:
            it.cancel(reason, by, nodes=keys, at_once=at_once, timeout=timeout)

    _ask(run, place, out, verb)


COMMANDS = (skip, complete, rerun, deadline, priority)
