"""The Celery app of the shipped workers: `celeriac worker CLASS` runs it, `celery -A tasks.app worker` can too.

JSON only. The broker is the scheduler's: CELERIAC_BROKER_URL, else CELERIAC_REDIS_URL, else celeriac.toml. Every module
beside this one is imported, so that its executors are known.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from celery import Celery

from scheduler.settings import Settings
from scheduler.worker import install

settings = Settings.load()

app = Celery("celeriac")
app.conf.update(settings.celery_settings())
install(app, settings=settings)

for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
    if not module.ispkg and module.name != "app":
        importlib.import_module(f".{module.name}", __package__)
