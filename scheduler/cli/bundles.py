"""`celeriac runs events|export|replay`: a run's log as it grows; the run as one file; and the file decided again.

A replay needs no Redis: it begins with the graph, and compares every decision with the recorded one (core/replay.py).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import NodeNotFound, escaped, shown
from .output import Output, json_option, json_text, note
from .place import Place, place_options
from .status import DETACHED, FAILED

if TYPE_CHECKING:
    from ..core.replay import Difference
    from ..core.run import Run

_NODE = re.compile(r"\bnode ([0-9]+)")


@click.command("events")
@click.argument("run")
@click.option("--follow", "-f", is_flag=True, help="Go on until the run has ended.")
@click.option("--node", "key", metavar="KEY", help="Only what happened to this node.")
@click.option("--after", metavar="ID", help="Only what came after this event.")
@json_option
@place_options
@click.pass_context
def events_command(
    ctx: click.Context, run: str, follow: bool, key: str | None, after: str | None, place: Place, out: Output
) -> None:
    """What happened in RUN, move by move, with ids; one event a line, also as JSON. Ctrl-C leaves the run alone."""
    from ..client import Client
    from .place import runs_with
    from .runs import checked_id

    with place.for_reading() as settings, Client(settings=settings) as client:
        if key is not None:
            keys = runs_with(settings, checked_id(run)).load(checked_id(run)).keys
            if key not in keys:
                raise NodeNotFound(run, key, keys)
        try:
            for it in client.run(run).events(after, follow=follow):
                if key is not None and it.node != key:
                    continue
                if out.json:
                    out.line(json_text(it._asdict()))
                    continue
                cells = (it.id, it.at_ms, it.node or "", it.move, it.attempt or "", it.cause or "", it.why)
                out.line("\t".join(escaped(str(cell), 4_000) for cell in cells))
        except KeyboardInterrupt:
            note(f"\nDetached; the run goes on. Come back with: celeriac runs events {run} --follow")
            ctx.exit(DETACHED)


@click.command("export")
@click.argument("run")
@click.option("-o", "--output", "path", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@place_options
def export_command(run: str, path: Path, force: bool, place: Place) -> None:
    """RUN as one file: graph, inputs, outputs, errors, log, versions; secrets by name only."""
    from ..archive.bundle import write_bundle
    from .doctor import versions
    from .place import runs_with
    from .runs import checked_id

    if path.exists() and not force:
        raise click.UsageError(f"{shown(str(path))} is there already; --force writes over it.")
    with place.for_reading() as settings:
        try:
            whole = write_bundle(runs_with(settings, checked_id(run)), checked_id(run), path, versions())
        except OSError as broken:
            raise click.UsageError(f"{shown(str(path))} cannot be written: {broken.strerror}.") from None
    click.echo(str(path))
    if not whole:
        note("The run went on while it was read, so its records may be a moment older than its log.")


@click.command("replay")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE")
@json_option
@click.pass_context
def replay_command(ctx: click.Context, path: Path, out: Output) -> None:
    """Decide again all that FILE tells of, without Redis; exit status 1 at the first decision that differs."""
    from ..archive.bundle import read_bundle, replay

    bundle = read_bundle(path)
    found = replay(bundle.shelf, bundle.run, whole=bundle.facts["whole"])
    if out.json:
        out.document(
            {
                "run": bundle.run,
                "decisions": found.decisions,
                "lines": found.lines,
                "takeovers": found.reloads,
                "state": found.run.run_state.value,
                "reason": found.run.reason,
                "versions": bundle.facts.get("versions", {}),
                "difference": None if found.difference is None else found.difference._asdict(),
            }
        )
    else:
        pairs = [("run", bundle.run), ("state", found.run.run_state.value), ("reason", found.run.reason)]
        out.facts([*pairs, ("decisions", f"{found.decisions} the same, of {found.lines} lines")])
        if found.difference is not None:
            _show(found.difference, found.run, out)
    if found.difference is not None:
        ctx.exit(FAILED)


def _show(it: Difference, run: Run, out: Output) -> None:
    """The first decision that differs, both sides."""
    out.line(f"differs at {it.id}" + (f", where the event was {escaped(it.event, 500)}" if it.event else ""))
    for name, lines in (("recorded", it.recorded), ("replayed", it.replayed)):
        for line in lines:
            out.line(f"  {name}: {escaped(line, 2_000)}")
    numbers = {int(it) for line in (*it.recorded, *it.replayed) for it in _NODE.findall(line)}
    named = [f"node {node} is {shown(run.keys[node], 100)}" for node in sorted(numbers) if node < run.n]
    if named:
        out.line(f"  {', '.join(named)}")
