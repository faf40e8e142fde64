"""`celeriac scheduler`, `worker`, `flower`: one process each, for Procfile, compose, systemd and `celeriac up`."""

from __future__ import annotations

import logging
import os
import signal
import sys

import click

from ..errors import SettingsError
from .output import note
from .place import Place, place_options


def log_to_stderr(level: str) -> None:
    """One line per record, on standard error, time in UTC."""
    import time

    line = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    line.converter = time.gmtime
    out = logging.StreamHandler()
    out.setFormatter(line)
    root = logging.getLogger()
    root.handlers[:] = [out]
    root.setLevel(level.upper())


@click.command("scheduler")
@place_options
def scheduler_command(place: Place) -> None:
    """One scheduler process. Several share the work; SIGTERM hands its part over at once."""
    from ..service.loop import Scheduler

    settings = place.located()
    log_to_stderr(settings.log_level)
    scheduler = Scheduler(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, scheduler.interrupt)
    logging.getLogger(__name__).info("scheduler %s", scheduler.name)
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
    from ..worker.options import worker_argv

    settings = place.located()
    if app is not None:
        settings = settings.model_copy(update={"app": app})
    become(worker_argv(settings, queue_class), environment_of(settings) | {"CELERIAC_QUEUE_CLASS": queue_class})


@click.command("flower")
@click.option("--app", metavar="MODULE:APP", help="The Celery app [CELERIAC_APP, tasks.app:app].")
@click.option("--address", help="Where to listen [CELERIAC_FLOWER_ADDRESS, 127.0.0.1].")
@click.option("--port", type=click.IntRange(1, 65_535), help="[CELERIAC_FLOWER_PORT, 5555].")
@place_options
def flower_command(app: str | None, address: str | None, port: int | None, place: Place) -> None:
    """Flower on the scheduler's broker, on loopback and read-only.

    Its settings are config/flower.py and nothing else: a flowerconfig.py in the working directory is not loaded.
    """
    import importlib.util

    from ..settings import default_file, redacted

    if importlib.util.find_spec("flower") is None:
        raise SettingsError("flower", "is not installed", "pip install 'celeriac[flower]'")
    settings = place.located()
    settings = settings.model_copy(
        update={
            name: value
            for name, value in (("app", app), ("flower_address", address), ("flower_port", port))
            if value is not None
        }
    )
    host = "127.0.0.1" if settings.flower_address in ("", "0.0.0.0") else settings.flower_address  # noqa: S104  compared
    note(f"Flower: http://{host}:{settings.flower_port}  (one run: http://{host}:{settings.flower_port}/tasks?search=kwargs:run=RUN)")
    note(f"Broker: {redacted(settings.broker_url or '')}")
    command = [sys.executable, "-m", "celery", "-A", flower_app(settings.app), "flower"]
    become([*command, f"--conf={default_file('flower.py')}"], environment_of(settings))
