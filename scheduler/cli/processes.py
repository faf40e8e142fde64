"""`celeriac scheduler`, `worker`, `flower`: one process each, for Procfile, compose, systemd and `celeriac up`."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from ..collector import spare
from ..errors import SettingsError, did_you_mean, masked
from .output import note
from .place import Place, place_options

if TYPE_CHECKING:
    from ..settings import QueueClass, Settings


class _Masked(logging.Formatter):
    """Lines, tracebacks included, without the passwords of URLs."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return masked(super().format(record))


def log_to_stderr(level: str) -> None:
    """One line per record, on standard error, time in UTC."""
    import time

    line = _Masked("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    line.converter = time.gmtime
    out = logging.StreamHandler()
    out.setFormatter(line)
    root = logging.getLogger()
    root.handlers[:] = [out]
    root.setLevel(level.upper())


def environment_of(settings: Settings) -> dict[str, str]:
    """Our environment, with where the installation is, for a process that finds its own settings."""
    told = settings.model_dump(mode="json")
    told["archive_url"] = settings.archive  # a child may know the Redis and not that it is the embedded one
    if settings.retention_seconds is None:
        told["retention_seconds"] = "never"
    named = {f"CELERIAC_{name.upper()}": str(value) for name, value in told.items() if value is not None}
    return {**os.environ, **named}


def become(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Goes on as another program, under the same process id: signals and parents keep meaning the same process."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, environment)  # noqa: S606  a list, no shell


def become_celery(arguments: list[str], environment: dict[str, str]) -> NoReturn:
    """Goes on as `celery ARGUMENTS`, in this interpreter: of what it needs, half a second's loading is done already."""
    from celery import __main__ as celery

    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [str(celery.__file__), *arguments]  # as `python -m celery` has it: Celery begins anew with that
    celery.main()
    raise AssertionError("Celery's command has left the process")


def app_to_load(name: str) -> str:
    """The import path of the Celery app, if its module is there.

    Raises:
        SettingsError: it is not; says what to do, which for the default app is a matter of where one stands.
    """
    module = name.partition(":")[0].partition(".")[0]
    if os.getcwd() not in sys.path:  # noqa: PTH109  sys.path holds text
        sys.path.insert(0, os.getcwd())  # noqa: PTH109  as Celery does
    if importlib.util.find_spec(module) is None:
        raise SettingsError(
            f"app {name}",
            f"there is no module {module!r} in the working directory or on the Python path",
            "Name your Celery app with --app MODULE:APP or CELERIAC_APP. tasks.app:app belongs to the repository "
            "and the image, not to the installed package",
        )
    return name


def check_class(name: str, settings: Settings) -> QueueClass:
    """The queue class of that name.

    Raises:
        SettingsError: there is none.
    """
    if name not in settings.classes:
        raise SettingsError(
            f"queue class {name}",
            f"is not declared.{did_you_mean(name, settings.classes)} Declared are {', '.join(settings.classes)}",
            "Correct the name, or declare it in queues.toml",
        )
    return settings.classes[name]


@click.command("scheduler")
@click.option("--strict", is_flag=True, help="Refuse a Redis that may lose what it acknowledged [CELERIAC_STRICT].")
@place_options
def scheduler_command(strict: bool, place: Place) -> None:
    """One scheduler process. Several share the work; SIGTERM hands its part over at once."""
    from ..service.loop import Scheduler

    settings = place.located(strict=strict or None)
    log_to_stderr(settings.log_level)
    scheduler = Scheduler(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, scheduler.interrupt)
    logging.getLogger(__name__).info("scheduler %s", scheduler.name)
    spare()
    scheduler.run()


@click.command("worker")
@click.argument("queue_class", metavar="CLASS")
@click.option("--app", metavar="MODULE:APP", help="The Celery app [CELERIAC_APP, tasks.app:app].")
@click.option("-c", "--concurrency", type=click.IntRange(1, 10_000), help="Slots, instead of what the class says.")
@click.option("-n", "--hostname", metavar="NAME", help="Name of the worker, as Celery takes it.")
@place_options
def worker_command(
    queue_class: str, app: str | None, concurrency: int | None, hostname: str | None, place: Place
) -> None:
    """One Celery worker for the queue class CLASS, with its pool, queue, limits and settings."""
    from ..worker.options import worker_argv, worker_environment

    settings = place.located(app=app)
    served = check_class(queue_class, settings)
    argv = worker_argv(served, hostname=hostname, concurrency=concurrency, loglevel=settings.log_level.upper())
    arguments = ["-A", app_to_load(settings.app), *argv]
    environment = environment_of(settings) | worker_environment(served, settings.queue_arguments(served))
    if served.pool == "gevent":  # which is to change the standard library before anything else is loaded
        become([sys.executable, "-m", "celery", *arguments], environment)
    become_celery(arguments, environment)


@click.command("flower")
@click.option("--app", metavar="MODULE:APP", help="The Celery app [CELERIAC_APP, tasks.app:app].")
@click.option("--address", help="Where to listen [CELERIAC_FLOWER_ADDRESS, 127.0.0.1].")
@click.option("--port", type=click.IntRange(1, 65_535), help="[CELERIAC_FLOWER_PORT, 5555].")
@place_options
def flower_command(app: str | None, address: str | None, port: int | None, place: Place) -> None:
    """Flower on the scheduler's broker, on loopback and read-only; elsewhere with a login only (FLOWER_BASIC_AUTH).

    Its settings are config/flower.py and nothing else: a flowerconfig.py in the working directory is not loaded.
    """
    from ..settings import default_file, redacted

    if importlib.util.find_spec("flower") is None:
        raise SettingsError("flower", "is not installed", "pip install 'celeriac[flower]'")
    settings = place.located(app=app, flower_address=address, flower_port=port)
    host = "127.0.0.1" if settings.flower_address in ("", "0.0.0.0") else settings.flower_address  # noqa: S104  compared
    note(f"Flower: http://{host}:{settings.flower_port}/tasks  (search for kwargs:run=RUN to see one run)")
    note(f"Broker: {redacted(settings.broker_url or '')}")
    command = [sys.executable, "-m", "celery", "-A", app_to_load(settings.app), "flower"]
    become([*command, f"--conf={default_file('flower.py')}"], environment_of(settings))
