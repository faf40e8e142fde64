"""What a Celery worker loads: install(app), @executor, and what an executor may know and say of its attempt."""

from __future__ import annotations

from ..errors import ContractBroken, InvalidInput, Permanent, RateLimited, Transient
from .context import Context, attempt
from .executor import Executor, executor
from .install import install

__all__ = [
    "Context",
    "ContractBroken",
    "Executor",
    "InvalidInput",
    "Permanent",
    "RateLimited",
    "Transient",
    "attempt",
    "executor",
    "install",
]
