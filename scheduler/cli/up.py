"""`celeriac up`: everything on one machine, as children of one process, until Ctrl-C.

Redis (embedded, unless one is configured), one scheduler, workers of every queue class. What ends by itself is started
again; on SIGTERM or Ctrl-C workers end first, each with the grace of its class, then the scheduler, then Redis. A
second Ctrl-C means: at once.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

from ..errors import StoreRefused, escaped
from .output import note
from .place import Place, place_options
from .processes import app_to_load, check_class, environment_of
from .status import FAILED
from .supervisor import Supervisor, celeriac_command, python_environment

if TYPE_CHECKING:
    from ..settings import QueueClass, Settings

SCHEDULER_GRACE_SECONDS = 10.0
EXTRA_GRACE_SECONDS = 10.0
"""What a worker gets beyond its class's shutdown_seconds before it is killed."""
_SCHEDULER_STAGE, _WORKER_STAGE = 1, 2


@click.command("up")
@click.option(
    "--workers", metavar="CLASS=N,...", help="How many worker processes of which class; one of each if not given."
)
@click.option("--app", metavar="MODULE:APP", help="The Celery app of the workers [CELERIAC_APP, tasks.app:app].")
@click.option("--flower", is_flag=True, help="Flower too.")
@click.option("--strict", is_flag=True, help="Refuse a Redis that may lose what it acknowledged [CELERIAC_STRICT].")
@place_options
@click.pass_context
def up_command(
    ctx: click.Context, workers: str | None, app: str | None, flower: bool, strict: bool, place: Place
) -> None:
    """Private Redis, scheduler and workers, in the foreground until Ctrl-C."""
    from ..embedded import EmbeddedRedis
    from ..settings import redacted

    place.overrides["strict"] = strict or None
    settings = place.settings(app=app)
    wanted = workers_of(workers, settings)
    app_to_load(settings.app)
    with contextlib.ExitStack() as stack:
        if settings.redis_url is None:
            server = stack.enter_context(EmbeddedRedis(settings.data_dir))
            settings = place.settings(
                app=app,
                redis_url=server.url,
                broker_url=settings.broker_url or server.broker_url,
                archive_url=settings.archive,
            )
            note(f"Redis {'.'.join(map(str, server.version))} in {server.data_dir}")
        if settings.strict:
            _refuse_unsafe(settings)
        supervisor = Supervisor(_say)
        stack.callback(supervisor.stop)
        start_scheduler(supervisor, settings)
        for name, number in wanted.items():
            for one in range(1, number + 1):
                start_worker(supervisor, settings, settings.classes[name], one)
        if flower:
            supervisor.start(
                "flower", celeriac_command("flower"), python_environment(environment_of(settings)), stage=_WORKER_STAGE
            )
        note(f"In another shell: CELERIAC_REDIS_URL={redacted(settings.redis_url or '')} celeriac doctor")
        note("Ctrl-C ends all of it in order; a second one at once.")
        in_order = supervisor.keep_going()
        note("Stopping ...")
    if not in_order:
        ctx.exit(FAILED)


def _refuse_unsafe(settings: Settings) -> None:
    """Say now what a strict scheduler would die of again and again.

    Raises:
        StoreRefused: this Redis may lose what it acknowledged.
    """
    from ..settings import redacted
    from ..store.connection import connect
    from ..store.health import look

    with connect(settings.redis_url or "", timeout_seconds=5.0) as client:
        found = look(client, fsync=True).unsafe()
    if found:
        raise StoreRefused(redacted(settings.redis_url or ""), found)


def workers_of(text: str | None, settings: Settings) -> dict[str, int]:
    """`--workers` as class -> processes; one of each class when nothing is said.

    Raises:
        click.UsageError: not CLASS=N,... or a number that is none.
        SettingsError: no such class.
    """
    if text is None:
        return dict.fromkeys(settings.classes, 1)
    found = {}
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        if not number.isdecimal() or int(number) > 1000:
            raise click.UsageError(f"--workers {part!r} is not CLASS=N with N from 0 to 1000.")
        check_class(name, settings)
        found[name] = int(number)
    return found


def start_scheduler(supervisor: Supervisor, settings: Settings) -> None:
    """A scheduler as a child."""
    supervisor.start(
        "scheduler",
        celeriac_command("scheduler"),
        python_environment(environment_of(settings)),
        grace_seconds=SCHEDULER_GRACE_SECONDS,
        stage=_SCHEDULER_STAGE,
    )


def start_worker(supervisor: Supervisor, settings: Settings, queue_class: QueueClass, number: int = 1) -> None:
    """A worker of a class as a child. SIGTERM begins Celery's soft shutdown in it."""
    name = queue_class.name if number == 1 else f"{queue_class.name}-{number}"
    supervisor.start(
        name,
        celeriac_command("worker", queue_class.name, "-n", f"{name}@%h"),
        python_environment(environment_of(settings)),
        grace_seconds=queue_class.shutdown_seconds + EXTRA_GRACE_SECONDS,
        stage=_WORKER_STAGE,
    )


def _say(child: str, line: str) -> None:
    """A child's line with its name before it; empty ones are left out."""
    if not line.strip():
        return
    sys.stderr.write(f"{child:<16} {escaped(line, 4_000)}\n")
    sys.stderr.flush()
