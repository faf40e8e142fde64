"""What a command line in compose, the Procfile or the README would run, parsed by the real command tree."""

from __future__ import annotations

from collections.abc import Sequence

import click


def resolve(words: Sequence[str]) -> str:
    """The command that `celeriac WORDS` runs, its options and arguments parsed but nothing started.

    >>> resolve(["worker", "standard-low"])
    'worker'

    Raises:
        click.UsageError: no such command, option or argument.
    """
    from scheduler.cli import main

    command: click.Command = main
    context = click.Context(main, info_name="celeriac")
    rest = list(words)
    path = []
    while isinstance(command, click.Group):
        if not rest:
            raise click.UsageError(f"celeriac {' '.join(words)}: a command is missing", context)
        found = command.get_command(context, rest[0])
        if found is None:
            raise click.UsageError(f"celeriac {' '.join(words)}: there is no command {rest[0]!r}", context)
        path.append(rest[0])
        command = found
        if isinstance(command, click.Group):
            context = click.Context(command, info_name=rest[0], parent=context)
            rest = rest[1:]
        else:
            command.make_context(rest[0], rest[1:], parent=context)
    return " ".join(path)
