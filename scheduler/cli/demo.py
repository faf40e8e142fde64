"""`celeriac demo [NAME]`: worked examples on a private Redis, from nothing to their results, checked.

Starts an embedded Redis, a scheduler and workers as children, submits an example of tasks/examples, and tells what
became of it. Exit status 0 only when every outcome is what is recorded beside the example. Without a name it is the
customer-feedback pipeline. A new demo is a row of DEMOS.
"""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import click

from ..errors import escaped
from .output import Output, counts_in_words, note, output_option
from .status import DETACHED, FAILED

if TYPE_CHECKING:
    from .verdict import Verdict

FEEDBACK = "feedback"
EXAMPLE = f"tasks.examples.{FEEDBACK}"
APP, EXAMPLES_APP = "tasks.app:app", "tasks.examples.app:app"
CLASSES = ("interactive-low", "standard-low")
SHOWN = 5
SHOWN_PROBLEMS = 50


class Demo(NamedTuple):
    """One demo.

    Attributes:
        show: import path below this package: takes the installation, the example, its name and the output.
        about: one line.
    """

    show: str
    about: str


DEMOS = {
    FEEDBACK: Demo("", "215 messages through a pipeline; failed ones are noted, and the run goes on"),
    "rag": Demo(
        "demo_paths:show_paths", "retrieve, generate, validate; other parameters, then a person, when that fails"
    ),
    "mode": Demo(
        "demo_paths:show_paths", "three flags choose full, incremental or skip; a transaction in SQLite does it"
    ),
    "moderation": Demo("demo_paths:show_paths", "a model flags uploads, a person decides about those"),
    "swap": Demo("demo_swap:show_swap", "a provider is replaced while runs are in flight"),
}
LIST = "ls"


@click.command("demo")
@click.argument("name", required=False, default=FEEDBACK, type=click.Choice([*DEMOS, LIST]))
@click.option("--list", "listed", is_flag=True, help="All demos, one line each; `celeriac demo ls` is the same.")
@click.option("--limit", type=click.IntRange(1), help="Only so many of the messages of the feedback pipeline.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep data and logs in this directory, to look at the runs later.",
)
@output_option
@click.pass_context
def demo_command(
    ctx: click.Context, name: str, listed: bool, limit: int | None, keep: Path | None, out: Output
) -> None:
    """Run an example on a private Redis, from nothing to its results; without NAME the feedback pipeline."""
    from .demonstration import example_of

    if listed or name == LIST:
        _list(out)
        return
    if limit is not None and name != FEEDBACK:
        raise click.UsageError(f"--limit is for the demo {FEEDBACK}, and {name} has no messages.")
    example = example_of(f"tasks.examples.{name}")
    signal.signal(signal.SIGTERM, _stop)
    try:
        with contextlib.ExitStack() as stack:
            home = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="celeriac-demo-")))
            if name == FEEDBACK:
                verdict = _demonstrate(example, limit, home, out)
                right, run = verdict.right, verdict.run
            else:
                right, run = _show_other(name, example, home.resolve(), out), ""
    except KeyboardInterrupt:
        note("\nStopped.")
        ctx.exit(DETACHED)
    if not out.json:
        _where_next(name, run, keep)
    ctx.exit(0 if right else FAILED)


def _list(out: Output) -> None:
    if out.json:
        out.document([{"demo": name, "about": it.about} for name, it in DEMOS.items()])
    else:
        out.table(["demo", "what it shows"], [[name, it.about] for name, it in DEMOS.items()])


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _show_other(name: str, example: Any, home: Path, out: Output) -> bool:
    """Any demo but the first; whether all of it was right."""
    from importlib import import_module

    from .demonstration import Demonstration, demonstrated

    module, _, function = DEMOS[name].show.partition(":")
    show: Callable[[Demonstration, Any, str, Output], bool] = getattr(
        import_module(f".{module}", __package__), function
    )
    with demonstrated(home, CLASSES[:1], EXAMPLES_APP) as stage:
        return show(stage, example, name, out)


def _demonstrate(example: Any, limit: int | None, home: Path, out: Output) -> Verdict:
    from ..client import Client
    from .demonstration import demonstrated
    from .follow import Followed
    from .progress import watch
    from .verdict import judge

    with demonstrated(home, CLASSES, APP) as stage:
        messages = example.messages(limit)
        with Client(settings=stage.settings) as client:
            run = client.submit(example.graph(given=messages), labels={"example": FEEDBACK})
            note(f"{len(messages)} messages submitted as run {run.id}")
            followed = Followed(stage.runs.load(run.id), run)
            watch(followed, each=lambda _: stage.check())
        verdict = judge(stage.runs, run.id, messages, example.expected(), example.STEPS)
        _show(verdict, stage.ready_seconds, followed.attempts, out)
    return verdict


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


def _where_next(name: str, run: str, keep: Path | None) -> None:
    module = f"tasks.examples.{name}"
    if keep is not None:
        words = f"runs show {run} --nodes" if run else "runs ls"
        note(f"\nLook at it:  CELERIAC_DATA_DIR={keep / 'redis'} celeriac {words}")
    else:
        again = "celeriac demo" if name == FEEDBACK else f"celeriac demo {name}"
        note(f"\nLook at it:  {again} --keep DIR   then   celeriac runs show (the command is printed)")
    limit, app = (" --input limit=2", "") if name == FEEDBACK else ("", f" --app {EXAMPLES_APP}")
    note(f"Draw it:     celeriac graph draw {module}:graph{limit}")
    note(f"Run it:      celeriac up{app}, and in another shell: celeriac run {module}:graph")
    if name == FEEDBACK:
        note("Change it:   tasks/feedback.py has the executors, tasks/examples/feedback.py the graph")
        note("More demos:  celeriac demo --list")
    else:
        note(f"Change it:   tasks/examples/{name}.py")
