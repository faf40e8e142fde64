"""Deployed policies: every version that ever was, which one is in force, and who has put it there.

A version never changes; another content is another version. Schedulers read the one in force when the counter of
changes went up, and whoever changes it wakes them all, so no run costs a read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from redis.exceptions import NoPermissionError

from ..errors import InvalidValue, PolicyNotFound, quoted, shown
from .runs import Runs
from .scopes import wake

HISTORY = 1_000
"""Changes that are kept."""
CHANGES, _CURRENT, _RECORD = b"changes", b"current", "version:"


class Change(NamedTuple):
    """One change of what is in force. `version` is "" when a policy was withdrawn."""

    version: str
    by: str
    reason: str
    at_ms: int


def current(runs: Runs) -> dict[str, Any] | None:
    """Record of the policy in force; None for none."""
    version = runs.client.hget(runs.keys.policies, _CURRENT)
    return record(runs, version.decode()) if version else None


def record(runs: Runs, version: str) -> dict[str, Any]:
    """Record of a version.

    Raises:
        PolicyNotFound: it was never deployed.
    """
    raw = runs.client.hget(runs.keys.policies, _RECORD + version)
    if raw is None:
        raise PolicyNotFound(version, versions(runs))
    found: dict[str, Any] = json.loads(raw)
    return found


def versions(runs: Runs) -> list[str]:
    """All versions, in the order of their names."""
    found = (name.decode() for name in runs.client.hkeys(runs.keys.policies))
    return sorted(name.removeprefix(_RECORD) for name in found if name.startswith(_RECORD))


def deploy(runs: Runs, policy: Mapping[str, Any], by: str = "", reason: str = "") -> bool:
    """Keep a policy's record and put it in force; False when it is in force already.

    Raises:
        InvalidValue: its version is there with another content, or a mapper of it in another policy.
    """
    version = policy["version"]
    _check_mappers(runs, policy)
    text = json.dumps(policy, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8", "replace")
    if not runs.client.hsetnx(runs.keys.policies, _RECORD + version, text):
        there = json.loads(runs.client.hget(runs.keys.policies, _RECORD + version))
        if there != json.loads(text):
            raise InvalidValue(
                "version", version, "was deployed with another content", "Give what has changed a new version."
            )
    return use(runs, version, by, reason)


def mappers(runs: Runs) -> dict[str, Any] | None:
    """Mappers of the policy in force, name -> definition; None for a user of Redis that may not read it (client)."""
    try:
        policy = current(runs)
    except NoPermissionError:
        return None
    return {} if policy is None else dict(policy["mappers"])


def _check_mappers(runs: Runs, policy: Mapping[str, Any]) -> None:
    """A mapper's version never changes either, whichever policy has it."""
    if not policy["mappers"]:
        return
    for version in versions(runs):
        there = record(runs, version)["mappers"]
        for name, said in policy["mappers"].items():
            if version != policy["version"] and name in there and there[name] != said:
                problem = f"stands with another definition in the policy of version {shown(version)}"
                raise InvalidValue(f"mappers[{quoted(name)}]", said, problem, "Give it a new version: name@2.")


def use(runs: Runs, version: str, by: str = "", reason: str = "") -> bool:
    """Put a version in force that is there; False when it is in force already.

    Raises:
        PolicyNotFound: it was never deployed.
    """
    record(runs, version)
    return _change(runs, version, by, reason)


def withdraw(runs: Runs, by: str = "", reason: str = "") -> bool:
    """No policy is in force from now on; runs keep what they have taken up. False when none was."""
    return _change(runs, "", by, reason)


def history(runs: Runs, limit: int = HISTORY) -> list[Change]:
    """Changes, the newest first."""
    found = map(json.loads, runs.client.lrange(runs.keys.policies_history, 0, limit - 1))
    return [Change(**{name: it[name] for name in Change._fields}) for it in found]


def _change(runs: Runs, version: str, by: str, reason: str) -> bool:
    if (runs.client.hget(runs.keys.policies, _CURRENT) or b"") == version.encode():
        return False
    change = Change(version, by, reason, runs.now_ms())
    with runs.client.pipeline(transaction=True) as pipe:
        pipe.hset(runs.keys.policies, _CURRENT, version)
        pipe.hincrby(runs.keys.policies, CHANGES, 1)
        pipe.lpush(
            runs.keys.policies_history, json.dumps(change._asdict(), ensure_ascii=False).encode("utf-8", "replace")
        )
        pipe.ltrim(runs.keys.policies_history, 0, HISTORY - 1)
        pipe.execute()
    wake(runs)
    return True
