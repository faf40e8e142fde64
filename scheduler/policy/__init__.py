"""Policies as people write them: a document that stands above all graphs, checked here before it is deployed.

Pure. What it means is decided in core (core/policies.py, core/safety.py); executors and graphs know nothing of it.
"""

from __future__ import annotations

from .document import policy_of, read_policy, remarks
from .view import Line, shown_settings, view

__all__ = ["Line", "policy_of", "read_policy", "remarks", "shown_settings", "view"]
