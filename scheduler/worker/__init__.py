"""What a Celery worker loads: install(app), @executor, and what an executor may know and say of its attempt."""

from __future__ import annotations

from ..errors import (
    BudgetExceeded,
    Cancelled,
    ContractBroken,
    InvalidInput,
    Permanent,
    RateLimited,
    SafetyRefused,
    TimedOut,
    Transient,
)
from .context import Context, attempt
from .executor import Executor, executor
from .install import install

__all__ = [
    "BudgetExceeded",
    "Cancelled",
    "Context",
    "ContractBroken",
    "Executor",
    "InvalidInput",
    "Permanent",
    "RateLimited",
    "SafetyRefused",
    "TimedOut",
    "Transient",
    "attempt",
    "executor",
    "install",
]
