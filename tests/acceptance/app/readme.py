"""The tasks that the README's example names."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from scheduler.worker import install

app = Celery("readme", broker=os.environ["CELERIAC_BROKER_URL"])
install(app)


@app.task(name="web.fetch")
def fetch(url: str) -> dict[str, str]:
    """A page."""
    return {"url": url, "body": "nine words stand on this page and no more"}


@app.task(name="text.count")
def count(text: str) -> int:
    """Words."""
    return len(text.split())


@app.task(name="llm.summarise")
def summarise(page: dict[str, str]) -> str:
    """A short text."""
    return page["body"][:10]


@app.task(name="ops.alert")
def alert(error: Any) -> None:
    """Somebody is called."""


@app.task(name="mail.send")
def send(to: str, body: str) -> str:
    """A letter."""
    return f"{to}: {body}"
