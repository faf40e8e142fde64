"""`celeriac run` and `celeriac submit`: a graph becomes a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import RunError, escaped
from ..wire import RunId
from .output import Output, counts_in_words, duration, json_text, note, output_option, span
from .place import Place, place_options, runs_with
from .status import CANCELLED, DETACHED, FAILED, NO_WORKER, TIMED_OUT

if TYPE_CHECKING:
    from ..settings import Settings
    from ..store.runs import Runs
    from .follow import Followed

T = TypeVar("T")
_SHOWN_FAILURES = 5


@dataclass
class Submission:
    """What is to be submitted, as the options said."""

    graph: str
    inputs: tuple[str, ...]
    key: str | None
    labels: tuple[str, ...]
    correlation_id: str | None
    deadline: float | None
    no_check: bool

    def submit(self, settings: Settings) -> RunId:
        """Does it; returns the run's id.

        Raises:
            click.UsageError, CeleriacError: nothing was stored.
        """
        from ..client import Client
        from .sources import graph_of, inputs_of

        graph = graph_of(self.graph, inputs_of(self.inputs))
        with Client(settings=settings) as client:
            return client.submit(
                graph,
                key=self.key,
                labels=labels_of(self.labels) or None,
                correlation_id=self.correlation_id,
                deadline=self.deadline,
                check=not self.no_check,
            ).id


def submission_options(command: Callable[..., T]) -> Callable[..., T]:
    """The argument and options that `run` and `submit` share; the command gets a `Submission` as `submission`."""

    @click.argument("graph")
    @click.option(
        "--input",
        "-i",
        "inputs",
        multiple=True,
        metavar="NAME=VALUE",
        help="Argument of the function that GRAPH names; JSON or text. @FILE.json gives several.",
    )
    @click.option("--key", help="Idempotency key: the same key finds the same run.")
    @click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="To find the run by.")
    @click.option("--correlation-id", metavar="ID", help="Travels with every attempt of the run.")
    @click.option("--deadline", callback=duration, metavar="10m", help="How long the run may take.")
    @click.option("--no-check", is_flag=True, help="Also what no worker knows yet; the nodes wait for one.")
    @wraps(command)
    def with_submission(*args: Any, **kwargs: Any) -> T:
        given = {name: kwargs.pop(name) for name in Submission.__dataclass_fields__}
        return command(*args, submission=Submission(**given), **kwargs)

    return with_submission


@click.command("run")
@submission_options
@click.option("--detach", is_flag=True, help="Print the run's id and leave, as `submit` does.")
@click.option(
    "--timeout", callback=duration, metavar="10m", help="How long to wait; the run goes on (exit status 124)."
)
@click.option(
    "--worker-timeout",
    callback=duration,
    metavar="30s",
    help="Give up when a class with work has no worker for so long (exit status 75).",
)
@place_options
@output_option
@click.pass_context
def run_command(
    ctx: click.Context,
    submission: Submission,
    detach: bool,
    timeout: float | None,
    worker_timeout: float | None,
    place: Place,
    out: Output,
) -> None:
    """Submit GRAPH, watch it, print its result.

    GRAPH is a .json, .yaml or .yml file, - for JSON on standard input, or an import path such as shop.graphs:order
    of a Graph or of a function that returns one. Ctrl-C leaves the run alone and says how to come back.
    """
    settings = place.located()
    run = submission.submit(settings)
    if detach:
        _tell_id(run, out)
        return
    ctx.exit(finish(settings, run, out, wait_seconds=timeout, worker_seconds=worker_timeout))


@click.command("submit")
@submission_options
@place_options
@output_option
def submit_command(submission: Submission, place: Place, out: Output) -> None:
    """Submit GRAPH and print the run's id. GRAPH is what `celeriac run` takes."""
    _tell_id(submission.submit(place.located()), out)


def _tell_id(run: str, out: Output) -> None:
    if out.json:
        out.document({"run": run})
    else:
        out.line(run)


def labels_of(given: tuple[str, ...]) -> dict[str, str]:
    """`--label` options as a dict.

    Raises:
        click.UsageError: one is not NAME=VALUE.
    """
    found = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not name or not equals:
            raise click.UsageError(f"--label {one!r} is not NAME=VALUE.")
        found[name] = value
    return found


def finish(
    settings: Settings,
    run: RunId,
    out: Output,
    *,
    wait_seconds: float | None = None,
    worker_seconds: float | None = None,
) -> int:
    """Watches a run until it ends, tells its result, and returns the exit status."""
    from ..client import Client
    from .follow import Followed
    from .progress import watch

    runs = runs_with(settings, run)
    with Client(settings=settings) as client:
        followed = Followed(runs.load(run), client.run(run))
        note(f"run {run} of {escaped(followed.run.name)}, {followed.run.n} nodes")
        try:
            watch(followed, each=_Patience(settings, runs, wait_seconds, worker_seconds))
        except KeyboardInterrupt:
            note(f"\nDetached; the run goes on. Come back with: celeriac runs watch {run}")
            return DETACHED
        except _OutOfPatienceError as over:
            note(str(over))
            return over.status
        status = tell_result(followed, out)
    if status:
        _tell_failures(runs, run)
        note(f"See: celeriac runs show {run} --nodes")
    return status


def tell_result(followed: Followed, out: Output) -> int:
    """Prints what became of a run that has ended, and returns the exit status."""
    run = followed.run
    seconds = round((followed.ended_at_ms - run.created_at_ms) / 1000, 3)
    try:
        result = followed.handle.result()
    except RunError:  # there is none; what failed is told by itself
        result = None
    status = {"failed": FAILED, "cancelled": CANCELLED}.get(followed.state.value, 0)
    if out.json:
        out.document(
            {
                "run": run.id,
                "name": run.name,
                "state": followed.state.value,
                "reason": followed.reason,
                "nodes": followed.counts_by_word(),
                "attempts": followed.attempts,
                "seconds": seconds,
                "result": result,
            }
        )
    else:
        reason = f" ({escaped(followed.reason, 300)})" if followed.reason and status else ""
        note(
            f"{followed.state}{reason}: {counts_in_words(followed.counts_by_word())}; "
            f"{followed.attempts} attempts in {span(seconds * 1000)}"
        )
        if result is not None:
            out.line(json_text(result))
    return status


def _tell_failures(runs: Runs, run_id: RunId) -> None:
    """The first nodes that failed, with what they said."""
    from ..core.states import NodeState
    from .values import errors_of

    run = runs.load(run_id)
    failed = [node for node, state in enumerate(run.state) if state == NodeState.FAILED]
    for node, error in errors_of(runs, run, failed[:_SHOWN_FAILURES]).items():
        note(escaped(f"  {run.keys[node]}: {error.get('type', '')}: {error.get('message', '')}", 500))
    if len(failed) > _SHOWN_FAILURES:
        note(f"  ... and {len(failed) - _SHOWN_FAILURES} more")


class _OutOfPatienceError(Exception):
    """The wait is over, the run is not."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Patience:
    """Called while a run is watched: ends the wait when its time is up or nobody works for it."""

    def __init__(self, settings: Settings, runs: Runs, wait: float | None, worker: float | None) -> None:
        self._settings = settings
        self._runs = runs
        self._wait = wait
        self._worker = worker
        self._begun = time.monotonic()
        self._moved = time.monotonic()
        self._look_at = time.monotonic() + 3.0
        self._done = -1
        self._hinted = False

    def __call__(self, followed: Followed) -> None:
        """Looks at the clock, and every few seconds without an ended node at who is there to work."""
        from ..store.connection import UNREACHABLE

        now = time.monotonic()
        if self._wait is not None and now - self._begun > self._wait and not followed.over:
            raise _OutOfPatienceError(
                TIMED_OUT,
                f"Not ended after {self._wait:g} s; the run goes on. Come back with: celeriac runs watch {followed.id}",
            )
        progress = followed.done + followed.attempts
        if progress != self._done:
            self._done, self._moved = progress, now
        elif now >= self._look_at and not followed.over:
            self._look_at = now + 3.0
            with suppress(*UNREACHABLE):  # who follows the run tells of that, and waits
                self._look(followed, now - self._moved)

    def _look(self, followed: Followed, still_seconds: float) -> None:
        from ..store.health import live_schedulers
        from .work import idle_classes

        idle = [escaped(name, 64) for name in idle_classes(self._settings, self._runs, followed.id)]
        if not self._hinted and not live_schedulers(self._runs.client, self._runs.keys):
            self._hinted = True
            note("No scheduler is running: start `celeriac scheduler` or `celeriac up`. The run waits for one.")
        elif not self._hinted and idle:
            self._hinted = True
            note(f"No worker serves {', '.join(idle)}: start `celeriac worker {idle[0]}`. The run waits for one.")
        if self._worker is not None and idle and still_seconds > self._worker:
            raise _OutOfPatienceError(
                NO_WORKER,
                f"No worker for {', '.join(idle)} within {self._worker:g} s; the run goes on. "
                f"Come back with: celeriac runs watch {followed.id}",
            )
