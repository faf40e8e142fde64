"""`celeriac pause`, `resume`, `paused`: what concerns many runs, a graph's, a queue class's or an executor's."""

from __future__ import annotations

from collections.abc import Callable

import click

from .output import Output, instant, note, output_option
from .place import Place, place_options


def _scoped(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that name what is meant."""
    command = output_option(place_options(command))
    command = click.option("--executor", metavar="NAME", help="Nodes of this executor.")(command)
    command = click.option("--class", "queue_class", metavar="NAME", help="Nodes of this queue class.")(command)
    return click.option("--graph", metavar="NAME", help="Runs of graphs of this name.")(command)


@click.command("pause")
@click.option("--reason", default="", help="Shown wherever something waits because of it.")
@click.option("--by", help="Who asks; the user of this process when not given.")
@_scoped
def pause_command(
    reason: str,
    by: str | None,
    graph: str | None,
    queue_class: str | None,
    executor: str | None,
    place: Place,
    out: Output,
) -> None:
    """Send nothing more of a graph, a queue class or an executor, until `resume`; what is out ends and counts."""
    from ..client import Client

    with Client(settings=place.located()) as client:
        changed = client.pause(graph=graph, queue_class=queue_class, executor=executor, reason=reason, by=by)
    _tell(out, changed, "It is paused already.")


@click.command("resume")
@_scoped
def resume_command(graph: str | None, queue_class: str | None, executor: str | None, place: Place, out: Output) -> None:
    """Let a paused graph, queue class or executor go on."""
    from ..client import Client

    with Client(settings=place.located()) as client:
        changed = client.resume(graph=graph, queue_class=queue_class, executor=executor)
    _tell(out, changed, "It is not paused.")


@click.command("paused")
@place_options
@output_option
def paused_command(place: Place, out: Output) -> None:
    """What is paused: graphs, queue classes and executors. Single runs: `celeriac runs ls --state paused`."""
    from ..client import Client

    with Client(settings=place.located()) as client:
        found = client.paused()
    if out.json:
        out.document([it._asdict() for it in found])
        return
    rows = [[it.kind, it.name, it.by, it.reason, instant(it.at_ms)] for it in found]
    out.table(["paused", "name", "by", "reason", "since"], rows)


def _tell(out: Output, changed: bool, otherwise: str) -> None:
    if out.json:
        out.document({"changed": changed})
    if not changed:
        note(otherwise)
