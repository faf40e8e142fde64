"""From one step of a chain to the next, in the process that has just run the first.

A step that only waits for the one before it may come in that one's message. Its worker reports the one and claims the
other in a single call, and puts the output in its place among the inputs. Whenever that cannot be, the chain simply
ends: the report goes its ordinary way, and the scheduler sends what comes next by itself.
"""

from __future__ import annotations

import logging
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded
from kombu.utils import json as kombu_json

from ..errors import WireError
from ..store.attempts import Claim, Onward, Verdict
from ..wire import CHAINED, Report
from .installation import Installation, claimant
from .report import Patience

log = logging.getLogger(__name__)

MOST_BYTES = 64 * 1024
"""Of an output that goes from one step to the next; a larger one goes by the scheduler, which may put it aside."""


def part(value: Any, path: list[str | int]) -> Any:
    """The part of a JSON value that a path leads to.

    Raises:
        LookupError: it has none.

    >>> part({"rows": [{"id": 7}]}, ["rows", 0, "id"])
    7
    """
    for step in path:
        inside = isinstance(value, list) and isinstance(step, int) and 0 <= step < len(value)
        if not inside and not (isinstance(value, dict) and isinstance(step, str)):
            raise LookupError(step)
        value = value[step]
    return value


def bind(step: dict[str, Any], output: bytes) -> bool:
    """Put the output of the step before where the inputs of this one have a hole; False when they cannot be made so.

    Args:
        step: an attempt of a bundle; its `holes` are [place in [args, kwargs], path into the output].
    """
    try:
        for place, path in step.get("holes", ()):
            inner: Any = step["inputs"]
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = part(kombu_json.loads(output), path)
    except (LookupError, TypeError, ValueError, RecursionError):  # the scheduler makes them, or says what is wrong
        return False
    return True


def onward_of(report: Report, output: bytes, step: dict[str, Any], token: str) -> Onward:
    """From an attempt to the next step.

    Args:
        token: of the bundle.
    """
    return Onward(report, output, step["id"], step["claim"], (report.chain or token, token + CHAINED))


def granted(installation: Installation, onward: Onward, hostname: str) -> Claim | None:
    """Report an attempt and claim the next step, patiently; None when the chain ends here, and nothing was reported.

    Raises:
        OutcomeUnknown: Redis did not answer in time, so both may have been done.
    """
    patience: Patience | None = None
    while True:
        try:
            [claim] = installation.attempts().proceed([onward], claimant(hostname))
        except SoftTimeLimitExceeded:
            raise
        except WireError as broken:
            log.warning("a chain ends here: %s", broken)
            return None
        except Exception as trouble:  # noqa: BLE001  no answer: the same tokens again do no harm
            patience = patience or Patience(installation.claim_wait_seconds)
            patience.bear(trouble)
            if not patience.wait():
                log.warning("attempt %s could not be claimed: %r. Its chain ends here.", onward.id, trouble)
                raise OutcomeUnknown from None
        else:
            return claim if claim.verdict is Verdict.GRANTED else None


class OutcomeUnknown(Exception):
    """Redis may have done what it was asked, and did not say so."""
