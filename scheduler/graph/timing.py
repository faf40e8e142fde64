"""When work may begin, how long all of it may take, and who ends it.

Pure. Checked here, whether it comes from the builder or from a document::

    {"key": "render", "executor": "farm.submit", "timing": {"delay_seconds": 60, "outside": {"within_seconds": 7200}}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..errors import InvalidValue
from .limits import Duration, kind_of, only_fields, seconds_of
from .waits import Wait, instant_of, ms, plain, span

TIMING_FIELDS = (
    "delay_seconds",
    "not_before",
    "start_timeout_seconds",
    "total_timeout_seconds",
    "silence_seconds",
    "expected_seconds",
    "alone",
    "outside",
)
_SPANS = ("delay", "start_timeout", "total_timeout", "silence", "expected")


@dataclass(frozen=True, slots=True, init=False)
class Timing:
    """When a node may begin, and how long all of it may take. Durations are seconds, "20s", "10m" or a timedelta.

    Args:
        delay: waits so long once its rule lets it start.
        not_before: waits until then: a datetime with a zone, or its ISO 8601 text. The later of the two counts.
        start_timeout: fails if no worker has begun it so long after it was ready, at its first try or a later one.
        total_timeout: fails if it has not ended so long after it was ready first, all tries and waits included.
        silence: an attempt fails as a timeout if its executor says nothing for so long: `attempt().heartbeat()` of
            scheduler.worker is what it says. The node's time limit holds besides.
        expected: how long one attempt usually takes, in place of what the executor says of itself. An attempt for which
            less is left until the run's deadline is not begun.
        alone: its attempts have messages of their own, however short they are: none waits for another on its way.
        outside: its worker only begins the job, and somebody outside ends it, by the attempt's id
            (`scheduler.worker.attempt().id`): True, or how long that may take.

    >>> Timing(delay="10m").document()
    {'delay_seconds': 600.0}
    """

    delay_seconds: float | None
    not_before: str | None
    start_timeout_seconds: float | None
    total_timeout_seconds: float | None
    silence_seconds: float | None
    expected_seconds: float | None
    alone: bool | None
    outside: bool
    within_seconds: float | None

    def __init__(
        self,
        *,
        delay: Duration | None = None,
        not_before: datetime | str | None = None,
        start_timeout: Duration | None = None,
        total_timeout: Duration | None = None,
        silence: Duration | None = None,
        expected: Duration | None = None,
        alone: bool = False,
        outside: Duration | bool = False,
        at: str = "timing",
    ) -> None:
        set_ = object.__setattr__
        set_(self, "delay_seconds", _seconds(delay, f"{at}.delay"))
        set_(self, "not_before", None if not_before is None else instant_of(not_before, f"{at}.not_before"))
        set_(self, "start_timeout_seconds", _seconds(start_timeout, f"{at}.start_timeout"))
        set_(self, "total_timeout_seconds", _seconds(total_timeout, f"{at}.total_timeout"))
        set_(self, "silence_seconds", _seconds(silence, f"{at}.silence"))
        set_(self, "expected_seconds", _seconds(expected, f"{at}.expected"))
        if type(alone) is not bool:
            raise InvalidValue(f"{at}.alone", alone, "is neither true nor false", "Write true, or leave it out.")
        set_(self, "alone", alone or None)
        set_(self, "outside", outside is not False)
        set_(self, "within_seconds", None if isinstance(outside, bool) else _seconds(outside, f"{at}.outside"))

    @classmethod
    def from_document(cls, value: object, at: str) -> Timing:
        """The field "timing" of a document; durations are numbers there."""
        if not isinstance(value, Mapping):
            raise InvalidValue(at, value, f"is not an object but {kind_of(value)}", 'Write {"delay_seconds": 60}.')
        fields = only_fields(value, TIMING_FIELDS, at)
        seconds = {
            name: plain(fields[f"{name}_seconds"], f"{at}.{name}_seconds")
            for name in _SPANS
            if f"{name}_seconds" in fields
        }
        outside: float | bool = False
        if "outside" in fields:
            if not isinstance(fields["outside"], Mapping):
                problem = f"is not an object but {kind_of(fields['outside'])}"
                raise InvalidValue(f"{at}.outside", fields["outside"], problem, 'Write {} or {"within_seconds": 60}.')
            inner = only_fields(fields["outside"], ("within_seconds",), f"{at}.outside")
            outside = plain(inner["within_seconds"], f"{at}.outside.within_seconds") if inner else True
        if "not_before" in fields and not isinstance(fields["not_before"], str):
            instant_of(fields["not_before"], f"{at}.not_before")
        return cls(
            **seconds, not_before=fields.get("not_before"), alone=fields.get("alone", False), outside=outside, at=at
        )

    def document(self) -> dict[str, Any]:
        """What of it is said, by the names of the document."""
        found = {name: value for name in TIMING_FIELDS[:-1] if (value := getattr(self, name)) is not None}
        if self.outside:
            found["outside"] = {} if self.within_seconds is None else {"within_seconds": self.within_seconds}
        return found

    @property
    def limits(self) -> dict[str, int]:
        """Its limits of time, and whether it travels alone, as the profile of a compiled graph holds them."""
        limits = {
            "start_ms": self.start_timeout_seconds,
            "total_ms": self.total_timeout_seconds,
            "silence_ms": self.silence_seconds,
            "expected_ms": self.expected_seconds,
        }
        found = {name: ms(seconds) for name, seconds in limits.items() if seconds is not None}
        return found | {"alone": True} if self.alone else found

    @property
    def wait(self) -> Wait | None:
        """What of it is a wait: before the work, or after it."""
        if not (self.outside or self.delay_seconds or self.not_before):
            return None
        record: dict[str, Any] = {"kind": "outside" if self.outside else "delay"}
        record |= span(self.delay_seconds, self.not_before)
        if self.within_seconds is not None:
            record["within_ms"] = ms(self.within_seconds)
        return Wait(None, record)


def _seconds(value: Duration | None, at: str) -> float | None:
    return None if value is None else seconds_of(value, at)


NO_TIMING = Timing()
