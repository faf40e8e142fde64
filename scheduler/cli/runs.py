"""`celeriac runs ...`: list, show, watch, result, pause, resume, cancel, retry, archive; acts.py, bundles.py have more.

Reading needs Redis alone, whatever else is stopped; runs that are not there any more are read from the archive.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from ..errors import RunNotFound, SettingsError, WaitTimeout, escaped
from . import acts
from .bundles import events_command, export_command, replay_command
from .output import Output, duration, instant, json_text, note, output_option, span
from .place import Place, place_options, runs_of, runs_with
from .status import DETACHED, FAILED

if TYPE_CHECKING:
    from ..archive import Archive
    from ..store.summaries import Summary

STATES = ("running", "paused", "cancelling", "succeeded", "failed", "cancelled")
_LOOK_SECONDS = 2.0


@click.group("runs")
def runs_command() -> None:
    """List, show, watch, pause, cancel, retry, export, replay and archive runs; act on their nodes."""


for _command in acts.COMMANDS:
    runs_command.add_command(_command)


def checked_id(run: str) -> Any:
    """A run id, as its type.

    Raises:
        RunNotFound: it does not even have the form of one.
    """
    from ..wire import RunId, is_run_id

    if not is_run_id(run):
        raise RunNotFound(run)
    return RunId(run)


@runs_command.command("ls")
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="Only these; may be repeated.")
@click.option("--graph", "name", help="Only runs of graphs of this name.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Only runs that have it.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C; on a terminal only.")
@click.option("--archived", is_flag=True, help="Those in the archive instead, the last archived first.")
@place_options
@output_option
def ls(
    states: tuple[str, ...],
    name: str | None,
    labels: tuple[str, ...],
    limit: int,
    watch: bool,
    archived: bool,
    place: Place,
    out: Output,
) -> None:
    """Runs, the newest first."""
    from .run import labels_of

    wanted = labels_of(labels)

    def fits(it: Summary) -> bool:
        return (
            (not states or it.state.value in states)
            and (name is None or it.name == name)
            and all(it.labels.get(key) == value for key, value in wanted.items())
        )

    if archived:
        _list(list(islice(filter(fits, _archive_of(place).summaries()), limit)), 0, out)
        return
    with place.for_reading() as settings:
        runs = runs_of(settings)
        while True:
            some = runs.newest(limit=limit if not (states or name or wanted) else 100_000)
            found = list(islice(filter(fits, some), limit))
            if watch and out.terminal:
                click.clear()
            _list(found, runs.now_ms(), out)
            if not (watch and out.terminal):
                return
            time.sleep(_LOOK_SECONDS)


def _archive_of(place: Place) -> Archive:
    """The archive of this installation; Redis is not asked.

    Raises:
        SettingsError: none is named.
    """
    from ..archive import open_archive

    found = open_archive(place.settings().archive)
    if found is None:
        raise SettingsError("archive_url", "names no archive", "Set CELERIAC_ARCHIVE_URL to a folder or URL")
    return found


def _list(found: list[Any], now_ms: int, out: Output) -> None:
    from .show import summary_document

    if out.json:
        out.document([summary_document(it) for it in found])
        return
    rows: list[list[Any]] = []
    for it in found:
        ended = sum(it.progress.get(state, 0) for state in _ENDS)
        lasted = (it.ended_at_ms or now_ms) - it.created_at_ms
        rows.append([it.id, it.name, it.state.value, f"{ended}/{it.nodes}", instant(it.created_at_ms), span(lasted)])
    out.table(["run", "graph", "state", "nodes", "created", "took"], rows)
    if not found and out.terminal:
        note("No runs here. Submit one with `celeriac run GRAPH`.")


_ENDS = ("succeeded", "failed", "skipped", "upstream_failed", "cancelled")


@runs_command.command("show")
@click.argument("run")
@click.option("--nodes", is_flag=True, help="Every node: state, edges, attempts with their timeline.")
@click.option("--node", "only", multiple=True, metavar="KEY", help="Only these nodes, with output and error.")
@place_options
@output_option
def show(run: str, nodes: bool, only: tuple[str, ...], place: Place, out: Output) -> None:
    """What is known of RUN, from Redis or the archive. Works with every other process stopped."""
    from .show import show_run

    with place.for_reading() as settings:
        show_run(runs_with(settings, checked_id(run)), checked_id(run), settings, out, nodes=nodes, only=only)


@runs_command.command("watch")
@click.argument("run")
@place_options
@output_option
@click.pass_context
def watch(ctx: click.Context, run: str, place: Place, out: Output) -> None:
    """Progress of RUN until it ends, then its result. Ctrl-C leaves the run alone."""
    from .run import finish

    with place.for_reading() as settings:
        ctx.exit(finish(settings, checked_id(run), out))


@runs_command.command("result")
@click.argument("run")
@click.option("--node", "key", metavar="KEY", help="Of this node instead of what the graph returns.")
@click.option("--wait", is_flag=True, help="Wait for the end of the run first.")
@place_options
@output_option
@click.pass_context
def result(ctx: click.Context, run: str, key: str | None, wait: bool, place: Place, out: Output) -> None:
    """The output of RUN, or of one of its nodes, as JSON."""
    from ..client import Client

    with place.for_reading() as settings, Client(settings=settings) as client:
        handle = client.run(run)
        try:
            if wait:
                handle.wait()
            found = handle.result(0) if key is None else handle.get(key, 0)
        except KeyboardInterrupt:
            note(f"\nDetached; the run goes on. Come back with: celeriac runs result {run} --wait")
            ctx.exit(DETACHED)
        except WaitTimeout as early:
            what = f"run {run}" if early.node is None else f"node {escaped(early.node, 100)}"
            note(f"{what} is {early.state}, not ended yet and has no output; --wait waits for the end of the run")
            ctx.exit(FAILED)
    out.document(found) if out.json else out.line(json_text(found))


@runs_command.command("cancel")
@click.argument("ids", metavar="RUN...", nargs=-1)
@click.option("--graph", metavar="NAME", help="Instead of RUN...: every run of graphs of this name that has not ended.")
@click.option("--node", "keys", multiple=True, metavar="KEY", help="Only this node; may be repeated. The run goes on.")
@click.option("--region", metavar="NAME", help="Only the nodes of this region. The run goes on.")
@click.option("--at-once", is_flag=True, help="With --node or --region: no grace for what runs.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@acts.asking
def cancel(  # noqa: PLR0913, PLR0917  one for each option, as click passes them
    ids: tuple[str, ...],
    graph: str | None,
    keys: tuple[str, ...],
    region: str | None,
    at_once: bool,
    yes: bool,
    reason: str,
    by: str | None,
    timeout: str,
    place: Place,
    out: Output,
) -> None:
    """Ask for the end of runs: nothing more of them is started, what runs is stopped. Or only of some nodes of one."""
    checked = [checked_id(run) for run in ids]
    some = bool(keys) or region is not None
    if bool(ids) == (graph is not None):
        raise click.UsageError("name runs, or a graph by --graph.")
    if some and len(ids) != 1:
        raise click.UsageError("--node and --region are for one run.")
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("cancelling needs --yes where nobody can be asked.")
        what = (
            "these nodes"
            if some
            else f"all runs of {graph}"
            if graph
            else f"{len(ids)} run{'s' if len(ids) > 1 else ''}"
        )
        click.confirm(f"Cancel {what}?", abort=True, err=True)
    if some:
        acts.cancel_nodes(ids[0], keys, region, at_once, reason, by, timeout, place, out)
        return
    if graph is not None:
        from ..client import Client

        with Client(settings=place.located()) as client:
            checked = client.cancel_runs(graph, reason, by)
        _asked(out, checked)
        return
    from ..client.given import who_of

    runs, who = runs_of(place.located()), who_of(by)
    known = runs.summaries(checked)
    for run, summary in zip(checked, known, strict=True):
        if summary is None:
            raise RunNotFound(run)
    for run in checked:
        runs.cancel(run, reason, who)
    _asked(out, checked)


def _asking(command: Callable[..., None]) -> Callable[..., None]:
    """Adds what pause and resume have in common."""
    command = output_option(place_options(command))
    command = click.option("--by", help="Who asks; the user of this process when not given.")(command)
    command = click.option("--reason", default="", help="Recorded with the run.")(command)
    return click.argument("ids", metavar="RUN...", nargs=-1, required=True)(command)


@runs_command.command("pause")
@_asking
def pause(ids: tuple[str, ...], reason: str, by: str | None, place: Place, out: Output) -> None:
    """Send nothing more of runs: what is out ends and counts, what becomes ready waits for `resume`."""
    _ask("pause", ids, reason, by, place, out)


@runs_command.command("resume")
@_asking
def resume(ids: tuple[str, ...], reason: str, by: str | None, place: Place, out: Output) -> None:
    """Let paused runs go on."""
    _ask("resume", ids, reason, by, place, out)


def _ask(verb: str, ids: tuple[str, ...], reason: str, by: str | None, place: Place, out: Output) -> None:
    from ..client import Client

    checked = [checked_id(run) for run in ids]
    with Client(settings=place.located()) as client:
        handles = [client.run(run) for run in checked]
        for handle in handles:
            handle.state  # noqa: B018  asked for what it raises: nothing is done if one of them is not there
        for handle in handles:
            getattr(handle, verb)(reason, by)
    _asked(out, checked)


def _asked(out: Output, runs: Sequence[str]) -> None:
    """Tell that a request for these runs is stored."""
    if out.json:
        out.document({"asked": list(runs)})
    else:
        for run in runs:
            out.line(run)
    note("Asked. `celeriac runs show RUN` tells when it is done; a scheduler must be running.")


@runs_command.command("retry")
@click.argument("run", metavar="RUN")
@acts.asking
def retry(run: str, reason: str, by: str | None, timeout: str, place: Place, out: Output) -> None:
    """Run once more what failed or was cancelled in an ended run, and what follows from it; the rest stays."""
    from ..client import Client

    with Client(settings=place.located()) as client:
        client.run(checked_id(run)).retry(reason, timeout, by)
    if out.json:
        out.document({"run": run, "state": "running"})
    else:
        out.line(run)


@runs_command.command("archive")
@click.argument("ids", metavar="RUN...", nargs=-1, required=True)
@click.option("--timeout", callback=duration, metavar="DURATION", default="30s", help="How long to wait for it.")
@place_options
@output_option
@click.pass_context
def archive(ctx: click.Context, ids: tuple[str, ...], timeout: float, place: Place, out: Output) -> None:
    """Archive ended runs now, before their time, and remove them from Redis."""
    settings = place.located()
    runs = runs_of(settings)
    if settings.archive in (None, "none"):
        raise SettingsError("archive_url", "names no archive", "Set CELERIAC_ARCHIVE_URL, for the schedulers too")
    checked = [checked_id(run) for run in ids]
    for run, summary in zip(checked, runs.summaries(checked), strict=True):
        if summary is None:
            raise RunNotFound(run)
        if summary.ended_at_ms is None:
            raise click.UsageError(f"run {run} is {summary.state.value}; only ended runs are archived.")
        runs.archive(run)
    until = time.monotonic() + timeout
    left = checked
    while left and time.monotonic() < until:
        time.sleep(0.1)
        left = [run for run, summary in zip(left, runs.summaries(left), strict=True) if summary is not None]
    if out.json:
        out.document({"archived": [run for run in checked if run not in left], "left": left})
    else:
        for run in checked:
            out.line(run)
    if left:
        note(f"{len(left)} are still in Redis; `celeriac doctor` may tell why. A scheduler must be running.")
        ctx.exit(FAILED)


for _command in (events_command, export_command, replay_command):
    runs_command.add_command(_command)
