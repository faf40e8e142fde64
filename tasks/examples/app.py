"""The Celery app of the demos' workers: the shipped one, and the executors that stand beside the examples' graphs.

`celeriac up --app tasks.examples.app:app` runs them beside `celeriac run tasks.examples.moderation:graph`.
"""

from __future__ import annotations

from ..app import app
from . import mode, moderation, rag, swap

__all__ = ["app", "mode", "moderation", "rag", "swap"]
