"""The Celery app of the shipped workers: `celeriac worker CLASS` runs it, and `celery -A tasks.app worker` can too.

An app like any other: settings of its own (config/celery.toml), executors of its own, and install(app). The broker is
CELERIAC_BROKER_URL, else CELERIAC_REDIS_URL. Every module beside this one is imported, so that its executors are known.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import tomllib
from pathlib import Path
from typing import Any

from celery import Celery

from scheduler.worker import install

HERE = Path(__file__).parent
SETTINGS = HERE.parent / "config" / "celery.toml"
REDIS_BROKERS = ("redis://", "rediss://", "redis+socket://", "sentinel://")


def configuration() -> dict[str, Any]:
    """Celery's settings: those of the file, and the broker of the environment."""
    document = tomllib.loads(Path(os.environ.get("CELERIAC_CELERY_FILE") or SETTINGS).read_text(encoding="utf-8"))
    found: dict[str, Any] = {**document.get("settings", {}), "broker_connection_max_retries": None}
    broker = os.environ.get("CELERIAC_BROKER_URL") or os.environ.get("CELERIAC_REDIS_URL")
    if broker:
        broker = f"redis+socket://{broker.removeprefix('unix://')}" if broker.startswith("unix://") else broker
        if broker.startswith("rediss://") and "ssl_cert_reqs=" not in broker:  # kombu would check nothing
            broker += f"{'&' if '?' in broker else '?'}ssl_cert_reqs=required"
        found["broker_url"] = broker
        if broker.startswith(REDIS_BROKERS):
            found["broker_transport_options"] = document.get("broker_transport_options", {})
    return found


app = Celery("celeriac")
app.conf.update(configuration())
install(app)

for module in pkgutil.iter_modules([str(HERE)]):
    if not module.ispkg and module.name != "app":
        importlib.import_module(f".{module.name}", __package__)
