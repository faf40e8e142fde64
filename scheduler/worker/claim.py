"""Before each run of an attempt: may we? Then what the message left in the store is fetched.

Called from Task.before_start, which is inside Celery's own error handling: what is raised here ends
the run as if the task had raised it.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from kombu.utils import json as kombu_json

from ..errors import InvalidInput, Permanent
from ..store.attempts import Attempts, Claim, Verdict
from ..store.scripts import Script
from ..wire import AttemptId
from .context import BUNDLED, HELD, Held, secrets_here
from .early import answered
from .installation import Installation, claimant
from .report import Patience
from .secrets import Resolved, watch_logs

log = logging.getLogger(__name__)
HANDOVER = Script("handover")


class AttemptRefused(Ignore):
    """The claim was refused: the attempt ended, was cancelled, or another delivery of it runs.

    Its message is acknowledged and nothing is reported: whoever ended or holds the attempt has done that, or will.
    """


def begin(installation: Installation, task: Any, task_id: Any, args: Any, kwargs: Any) -> None:
    """Claim the attempt and make it this thread's own; returns at once for tasks that are not ours.

    Raises:
        AttemptRefused: it is not ours to run.
        Reject: Redis did not answer in time; the message goes back to the broker.
    """
    attempt = AttemptId.parse(task_id) if type(task_id) is str else None
    if attempt is None:
        return
    request = task.request
    if request.is_eager or request.called_directly:
        return
    now = HELD.get()
    if now is not None and now.request is request:
        return
    hostname = request.hostname or "worker"
    bundle = BUNDLED.get()
    claimed = None if bundle is None else bundle.claim_of(task_id)
    if bundle is not None and claimed is not None:
        claim, token = claimed, bundle.token_of(task_id)
    else:
        bundle, (token, answer) = None, answered(task_id)
        claim = answer or ask(installation, [task_id], claimant(hostname), token)[0]
    if claim.verdict is not Verdict.GRANTED:
        raise AttemptRefused(claim.verdict.value)
    it = Held(installation, task, request, task_id, attempt, token, hostname)
    it.bundle = bundle
    it.claimed_at_ms = claim.now_ms
    it.hard_end_ms = claim.hard_end_ms
    it.lease_ms = claim.lease_end_ms - claim.now_ms
    HELD.set(it)
    if attempt.attempt > 1:
        request.retries = max(request.retries or 0, attempt.attempt - 1)
    header = request.get("celeriac")
    if isinstance(header, dict):
        if header.get("silence"):
            it.silence = tuple(header["silence"])
        if header.get("deferred"):
            fetch(installation.attempts(), header["deferred"], args, kwargs)
        if header.get("secrets"):
            it.secrets = Resolved.into(header["secrets"], args, kwargs, installation.secrets)
            watch_logs(secrets_here)
    it.began = time.perf_counter()


def ask(installation: Installation, ids: list[str], worker: str, token: str) -> list[Claim]:
    """May attempts be begun? One answer each, in order, from one call per shard.

    Raises:
        Reject: Redis did not answer in time; their message goes back to the broker.
    """
    patience: Patience | None = None
    while True:
        try:
            return installation.attempts().claim(ids, worker, token)
        except SoftTimeLimitExceeded:
            raise
        except Exception as trouble:  # noqa: BLE001  no answer: the same token again does no harm
            patience = patience or Patience(installation.claim_wait_seconds)
            patience.bear(trouble)
            if not patience.wait():
                more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
                warned = "attempt %s%s could not be claimed: %r. The message goes back to the broker."
                log.warning(warned, ids[0], more, trouble)
                raise Reject(repr(trouble), requeue=True) from None  # Celery logs what it came from, 50 lines of it


def hand_over(it: Held, why: str) -> bool:
    """Give the attempt back, so that the next delivery of its id may claim it; whether it was still ours.

    Args:
        it: the running attempt.
        why: "requeued" (keeps one lease) or "replaced" (keeps the attempt's timeout).
    """
    attempts = it.installation.attempts()
    keys = attempts.keys.shard(it.parsed.shard)
    patience = Patience(it.lease_ms * 0.0005)
    while True:
        try:
            answer = HANDOVER(attempts.client, [keys.attempts, keys.leases], [it.id, it.token, why])
            return bool(answer[0] == b"handed over")
        except Exception as trouble:
            patience.bear(trouble)
            if not patience.wait():
                raise


def fetch(attempts: Attempts, places: Any, args: Any, kwargs: Any) -> None:
    """Put large outputs where the message has references to them, in place.

    Args:
        attempts: the store.
        places: for each reference the path to it from [args, kwargs].
        args: list, changed in place.
        kwargs: dict, changed in place.

    Raises:
        Permanent: an output is gone from the store.
        InvalidInput: it has no such path.
    """
    fetched: dict[str, Any] = {}
    mine = f"{{{attempts.keys.namespace}:"
    for place in places:
        inner: Any = [args, kwargs]
        for step in place[:-1]:
            inner = inner[step]
        reference = inner[place[-1]]
        key = str(reference["blob"])
        if not key.startswith(mine) or ":blob:" not in key:
            raise InvalidInput(f"the message refers to {key!r}, which is not a put-aside output of this store")
        if key not in fetched:
            data = attempts.get_blob(key)
            if data is None:
                gone = Permanent(
                    f"the output put aside as {key!r} is gone from Redis, so this input cannot be had again. "
                    "Run its producer anew.",
                    origin="infrastructure",
                )
                gone.phase = "dispatch"  # type: ignore[attr-defined]  # read by endings.error_of
                raise gone
            fetched[key] = kombu_json.loads(data)
        value = fetched[key]
        for step in reference.get("path") or ():
            try:
                value = value[step]
            except (LookupError, TypeError) as problem:
                missing = f"the output put aside as {key!r} has no {step!r} of path {reference['path']!r}"
                raise InvalidInput(missing) from problem
        inner[place[-1]] = value
