"""Versions of executors: which one a run was submitted with, and whether another will do.

Pure. A version is MAJOR or MAJOR.MINOR and whatever follows ("1.4.2", "2.0-rc1"); what does not begin so is no version
for these rules, and an executor without one is never refused. Another MAJOR is another contract. A node may ask for a
major version, "2", or for a minor one at least, "2.1".
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import InvalidValue
from .wire import TOOL_VERSION

_VERSION = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,9}))?(?:[.+-].*)?", re.DOTALL)
ASKED = TOOL_VERSION
"""What a node may ask for."""


def version_of(contract: Mapping[str, Any]) -> str:
    """The version in a published contract; "" for none, or one that these rules cannot read.

    >>> version_of({"version": "1.4.2"}), version_of({"version": "blue"}), version_of({"version": None})
    ('1.4.2', '', '')
    """
    found = contract.get("version")
    return found if isinstance(found, str) and _VERSION.fullmatch(found) else ""


def is_compatible(before: str, now: str) -> bool:
    """Whether an executor in version `now` does what was submitted with `before`: of the same major version.

    >>> is_compatible("1.4.2", "1.9"), is_compatible("1.4.2", "2.0"), is_compatible("", "2.0")
    (True, False, True)
    """
    one, other = _VERSION.fullmatch(before), _VERSION.fullmatch(now)
    return one is None or other is None or int(one[1]) == int(other[1])


def fits(now: str, asked: str) -> bool:
    """Whether version `now` is what a node asks for.

    >>> fits("2.3.1", "2"), fits("2.3.1", "2.4"), fits("2.10", "2.4"), fits("3.0", "2"), fits("", "2")
    (True, False, True, False, True)
    """
    found = _VERSION.fullmatch(now)
    if found is None:
        return True
    major, _, minor = asked.partition(".")
    return int(found[1]) == int(major) and int(found[2] or 0) >= int(minor or 0)


def asked_of(value: object, at: str) -> str:
    """What a node asks for, checked.

    Raises:
        InvalidValue: it is not written so.
    """
    if not isinstance(value, str) or not re.fullmatch(ASKED, value):
        remedy = 'Write a major version, "2", or a minor one at least, "2.1", as text.'
        raise InvalidValue(at, value, "is no version to ask for", remedy)
    return value


def contract_hash(contract: Mapping[str, Any]) -> str:
    """The hash of a contract as published: 16 hexadecimal digits of BLAKE2b over its JSON with sorted keys."""
    text = json.dumps(contract, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()


def current(executors: Iterable[str], contracts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """What a run records of its executors: name -> version, if it has one, and hash of the contract.

    >>> current(["a", "b"], {"a": {"version": "1.4"}})
    {'a': {'contract': '6dc643c84d5faf19', 'version': '1.4'}}
    """
    found = {}
    for name in sorted(set(executors)):
        if (contract := contracts.get(name)) is not None:
            version = version_of(contract)
            found[name] = {"contract": contract_hash(contract)} | ({"version": version} if version else {})
    return found
