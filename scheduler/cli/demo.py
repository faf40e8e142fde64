"""`celeriac demo`: the customer-feedback pipeline on a private Redis, from nothing to its results, checked.

Starts an embedded Redis, a scheduler and workers of two classes as children, submits tasks.examples.feedback, shows
progress, then what became of each message. Exit status 0 only when every outcome is what is recorded beside the
messages. The example is loaded by its import path, for this side of celeriac never imports executors.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ..errors import CeleriacError, SettingsError, escaped
from .output import Output, counts_in_words, note, output_option
from .status import DETACHED, FAILED
from .supervisor import Child, Supervisor
from .up import start_scheduler, start_worker

if TYPE_CHECKING:
    from ..settings import Settings
    from ..store.runs import Runs
    from .verdict import Verdict

EXAMPLE = "tasks.examples.feedback"
CLASSES = ("interactive-low", "standard-low")
SHOWN = 5
SHOWN_PROBLEMS = 50
READY_SECONDS = 60.0


class ChildEndedError(CeleriacError):
    """A process that the demo needs has ended by itself."""

    def __init__(self, child: Child, words: str) -> None:
        status = child.process.poll() if child.process is not None else None
        super().__init__(f"{child.name} ended with status {status}. Its last words:\n{words or '(none)'}")


@click.command("demo")
@click.option("--limit", type=click.IntRange(1), help="Only so many of the messages.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep data and logs in this directory, to look at the run later.",
)
@output_option
@click.pass_context
def demo_command(ctx: click.Context, limit: int | None, keep: Path | None, out: Output) -> None:
    """Run the example pipeline on a private Redis, from nothing to its results."""
    example = _example()
    signal.signal(signal.SIGTERM, _stop)
    try:
        with contextlib.ExitStack() as stack:
            home = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="celeriac-demo-")))
            verdict = _demonstrate(example, limit, home, out, stack)
    except KeyboardInterrupt:
        note("\nStopped.")
        ctx.exit(DETACHED)
    if not out.json:
        _where_next(verdict.run, keep)
    ctx.exit(0 if verdict.right else FAILED)


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _example() -> Any:
    """The example's module.

    Raises:
        SettingsError: it is not here; an installed wheel does not hold it.
    """
    from .sources import attribute_of

    try:
        attribute_of(f"{EXAMPLE}:graph")
    except click.UsageError:
        raise SettingsError(
            "celeriac demo",
            f"{EXAMPLE} is not here: the example belongs to the repository and the image, not to the installed package",
            "Run it in a checkout (`make demo`), with the checkout on PYTHONPATH, or in the image",
        ) from None
    import importlib

    return importlib.import_module(EXAMPLE)


def _demonstrate(example: Any, limit: int | None, home: Path, out: Output, stack: contextlib.ExitStack) -> Verdict:
    from ..client import Client
    from ..embedded import EmbeddedRedis
    from .follow import Followed
    from .place import runs_of
    from .progress import watch
    from .verdict import judge

    begun = time.monotonic()
    server = stack.enter_context(EmbeddedRedis(home / "redis"))
    settings = _settings(home, server.url, server.broker_url)
    note(f"Redis {'.'.join(map(str, server.version))}, one scheduler, workers of {' and '.join(CLASSES)} ...")
    logs = home / "logs"
    logs.mkdir(exist_ok=True)
    supervisor = Supervisor(lambda child, line: note(f"{child}: {escaped(line)}"), logs=logs)
    stack.callback(supervisor.stop)
    with _own_environment(home):
        start_scheduler(supervisor, settings)
        for name in CLASSES:
            start_worker(supervisor, settings, settings.classes[name])
    runs = runs_of(settings)
    _wait_for_workers(runs, settings, supervisor)
    ready_seconds = time.monotonic() - begun
    messages = example.messages(limit)
    with Client(settings=settings) as client:
        run = client.submit(example.graph(given=messages), labels={"example": "feedback"})
        note(f"{len(messages)} messages submitted as run {run.id}")
        followed = Followed(runs.load(run.id), run)
        watch(followed, each=lambda _: _check(supervisor))
    verdict = judge(runs, run.id, messages, example.expected(), example.STEPS)
    _show(verdict, ready_seconds, followed.attempts, out)
    return verdict


def _settings(home: Path, redis_url: str, broker_url: str) -> Settings:
    """The shipped settings on this Redis, whatever the user's own files say."""
    from ..settings import Settings, default_file

    (home / "celeriac.toml").write_text("# the demo uses the shipped settings\n", encoding="utf-8")
    return Settings.load(
        home / "celeriac.toml",
        redis_url=redis_url,
        broker_url=broker_url,
        namespace="cel",
        shards=16,
        queues_file=default_file("queues.toml"),
        celery_file=default_file("celery.toml"),
        app="tasks.app:app",
    )


@contextlib.contextmanager
def _own_environment(home: Path) -> Iterator[None]:
    """Children that are started meanwhile see no settings but the demo's."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("CELERIAC_")]:
        del os.environ[name]
    os.environ["CELERIAC_CONFIG"] = str(home / "celeriac.toml")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _wait_for_workers(runs: Runs, settings: Settings, supervisor: Supervisor) -> None:
    """Until a worker of each class has announced itself."""
    from ..client.views import Workers

    deadline = time.monotonic() + READY_SECONDS
    while not Workers.read(runs, settings).serving.keys() >= set(CLASSES):
        _check(supervisor)
        if time.monotonic() > deadline:
            words = "\n".join(f"{it.name}:\n{supervisor.last_words(it)}" for it in supervisor.children)
            raise CeleriacError(f"no worker was ready within {READY_SECONDS:g} s.\n{words}")
        time.sleep(0.05)


def _check(supervisor: Supervisor) -> None:
    for child in supervisor.ended():
        raise ChildEndedError(child, supervisor.last_words(child))


def _show(verdict: Verdict, ready_seconds: float, attempts: int, out: Output) -> None:
    """The first messages one by one, the others in sum, then the counts."""
    if out.json:
        out.document(verdict.document() | {"attempts": attempts, "ready_seconds": round(ready_seconds, 2)})
    else:
        rows = [
            [it.feedback_id, it.text, it.sentiment, ", ".join(it.topics or ()), it.team or it.stopped]
            for it in verdict.items[:SHOWN]
        ]
        out.table(["id", "message", "sentiment", "topics", "team"], rows)
        rest = verdict.items[SHOWN:]
        if rest:
            _show_rest(rest, out)
        out.facts(
            [
                ("nodes", f"{verdict.nodes}: {counts_in_words(verdict.counts)}"),
                ("attempts", attempts),
                ("seconds", f"{verdict.seconds:.1f} for the run, after {ready_seconds:.1f} to start everything"),
                ("errors handled", f"{verdict.handled} of {verdict.stopped}, once each, nothing ran after them"),
            ]
            if verdict.right
            else [("nodes", verdict.nodes), ("attempts", attempts)]
        )
    if verdict.right:
        note(f"All {len(verdict.items)} outcomes are right.")
    for problem in verdict.problems[:SHOWN_PROBLEMS]:
        note(f"WRONG: {escaped(problem)}")
    if len(verdict.problems) > SHOWN_PROBLEMS:
        note(f"... and {len(verdict.problems) - SHOWN_PROBLEMS} more")


def _show_rest(rest: list[Any], out: Output) -> None:
    teams = Counter(it.team or "(stopped, error handled)" for it in rest)
    moods: dict[str, Counter[str]] = {}
    for it in rest:
        moods.setdefault(it.team or "(stopped, error handled)", Counter())[it.sentiment or "unknown"] += 1
    out.table(
        [f"team, of the other {len(rest)}", "messages", "positive", "neutral", "negative"],
        [
            [team, number, *(moods[team][mood] for mood in ("positive", "neutral", "negative"))]
            for team, number in sorted(teams.items())
        ],
    )


def _where_next(run: str, keep: Path | None) -> None:
    if keep is not None:
        note(f"\nLook at it:  CELERIAC_DATA_DIR={keep / 'redis'} celeriac runs show {run} --nodes")
    else:
        note("\nLook at it:  celeriac demo --keep DIR   then   celeriac runs show (the command is printed)")
    note(f"Draw it:     celeriac graph draw {EXAMPLE}:graph --input limit=2")
    note("Run it:      celeriac up, and in another shell: celeriac run " + f"{EXAMPLE}:graph")
    note("Change it:   tasks/feedback.py has the executors, tasks/examples/feedback.py the graph")
