"""The command `celeriac`: one file per group of verbs, nothing heavy imported before a command needs it.

Data goes to standard output: a table on a terminal, tab-separated text in a pipe, one JSON document with `-o json`.
Everything else goes to standard error. Text that somebody else wrote is shown escaped. Exit status:

    0    done                        6    the graph is invalid
    1    the run failed, or something is wrong          69   Redis does not answer
    2    usage, settings             75   no worker for a class within --worker-timeout
    3    the run was cancelled       124  the wait timed out, the run goes on
    5    not found                   130  detached by Ctrl-C, the run goes on

A new verb is one function in the file of its group and one line below.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, NoReturn

import click

COMMANDS = {
    "demo": ("demo", "Run an example on a private Redis, from nothing to its results; --list has all."),
    "up": ("up", "Private Redis, scheduler and workers, in the foreground until Ctrl-C."),
    "scheduler": ("processes", "One scheduler process."),
    "worker": ("processes", "One Celery worker for a queue class."),
    "flower": ("processes", "Flower, on loopback and read-only."),
    "run": ("run", "Submit a graph, watch it, print its result."),
    "submit": ("run", "Submit a graph and print the run's id."),
    "runs": ("runs", "List, show, watch, cancel, export, replay and archive runs, and act on their nodes."),
    "why": ("why", "Why a node ran, waits, was passed over or failed; what holds a run up."),
    "approvals": ("approvals", "What people are asked: list, show and answer it."),
    "signal": ("approvals", "Send a signal to a run."),
    "complete": ("approvals", "End a job that an attempt has begun and that somebody outside does."),
    "pause": ("paused", "Pause a graph, a queue class or an executor."),
    "resume": ("paused", "Let it go on."),
    "paused": ("paused", "What is paused, by whom and why."),
    "dead": ("dead", "What nobody could use: look at it, put it back, drop it."),
    "policy": ("policy", "Rules above all graphs: check, deploy, go back, and see what counts for a node."),
    "capabilities": ("capabilities", "Which executor does what nodes ask for by capability."),
    "tools": ("tools", "Which executor is which tool, in which version."),
    "graph": ("graph", "Check and draw graphs."),
    "doctor": ("doctor", "Say what is wrong with this installation."),
    "version": ("doctor", "Print versions."),
}
"""Command -> (file that has it, what `--help` says about it)."""


class Commands(click.Group):
    """The command tree's root. Loads a command's file when the command is asked for, and words every error."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """All of them, in the order of the table above."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  the same
        """The command, its file imported now."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{COMMANDS[cmd_name][0]}", __name__)
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  the same
        """The list that `--help` shows, without importing a single command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; what celeriac raises on purpose becomes one message and an exit status."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, KeyboardInterrupt, BrokenPipeError):
            raise
        except Exception as error:  # noqa: BLE001  those that nobody planned are raised again
            _tell(ctx, error)


def _tell(ctx: click.Context, error: Exception) -> NoReturn:
    """Ends the process with the error's status and words; errors that nobody planned keep their traceback."""
    from .status import status_of, words_of

    status = status_of(error)
    if status is None:
        raise error
    click.echo(f"celeriac: {words_of(error)}", err=True)
    ctx.exit(status)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Settings: CELERIAC_REDIS_URL and others, or celeriac.toml. Start with `celeriac demo`.",
)
@click.option("--no-color", is_flag=True, help="No colours on a terminal [NO_COLOR].")
def main(no_color: bool) -> None:
    """Durable dependency graphs for the Celery you already run."""
    if no_color:
        os.environ["NO_COLOR"] = "1"
