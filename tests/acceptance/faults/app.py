"""The Celery app of the base load: tasks that sleep, hand on a checksum, and leave a line in the ledger.

An app as a user has it: celery.toml's settings, plain tasks, and one line that makes them executors.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from celery import Celery

from scheduler import Transient
from scheduler.settings import Settings
from scheduler.worker import attempt, install

from . import ledger
from .checksum import checksum


def make_app(name: str) -> Celery:
    """An app with the settings of this installation, for tasks of other modules of the suite too."""
    made = Celery(name, set_as_current=False)
    settings = Settings.load()
    made.conf.update(settings.celery_settings(settings.classes[os.environ.get("CELERIAC_QUEUE_CLASS", "work")]))
    install(made)
    return made


app = make_app("faults")


def note(what: str) -> None:
    """A line in the ledger about the attempt that is running here; none for tasks outside any run."""
    now = attempt()
    if now is not None:
        ledger.write(os.environ["FAULTS_LEDGER"], what, now.run, now.node, now.number)


@app.task(name="faults.step")
def step(name: str, ms: float, parents: Sequence[int] = (), fails: bool | int = False) -> int:
    """Work for some ms; then end well, or fail if that was declared.

    Args:
        fails: True for good; a number for so many first attempts, which another try may mend.
    """
    note(ledger.START)
    time.sleep(ms / 1000)  # the work itself
    now = attempt()
    if fails is True:
        note(ledger.FAIL)
        raise ValueError(f"{name} was declared to fail")
    if fails and now is not None and now.number <= fails:
        note(ledger.FAIL)
        raise Transient(f"attempt {now.number} of {name} was declared to fail")
    note(ledger.END)
    return checksum(name, parents)
