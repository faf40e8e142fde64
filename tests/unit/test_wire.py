"""What crosses processes: ids that parse back to what they were, records that any version can read or refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scheduler.errors import WireError
from scheduler.wire import (
    ENDS,
    OUTPUT_KINDS,
    VERSION,
    AttemptId,
    Report,
    RunId,
    error_record,
    is_run_id,
    new_run_id,
    run_id_for_key,
    shard_of,
)

RUN = RunId("01jd0c0000000000000000000a")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
INSTANTS = st.none() | st.integers(0, 2**53)
REPORTS = st.builds(
    Report,
    id=st.builds(
        lambda *parts: str(AttemptId(parts[0], RUN, *parts[1:])),
        st.integers(0, 9999),
        st.integers(0, 999_999),
        st.integers(0, 999),
        st.integers(0, 999_999),
    ),
    end=st.sampled_from(ENDS),
    worker=st.text(),
    claimed_at_ms=INSTANTS,
    output=st.sampled_from(OUTPUT_KINDS),
    error=st.none() | st.dictionaries(st.text(), JSON, max_size=4),
    retry_after_ms=INSTANTS,
    ran_us=INSTANTS,
    goes_on=st.text(),
    chained=st.booleans(),
    chain=st.text(),
)

# --- ids ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 9999), st.integers(0, 10**9 - 1), st.integers(0, 10**6 - 1), st.integers(0, 10**6 - 1))
def test_an_attempt_id_is_read_back(shard: int, node: int, epoch: int, attempt: int) -> None:
    """Its text is the Celery task id; each part comes back as it was."""
    it = AttemptId(shard, new_run_id(1_700_000_000_000), node, epoch, attempt)
    assert AttemptId.parse(str(it)) == it


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8b0b3a4e-37d5-4c1e-9d5e-3b6d6f1f0c55",
        RUN,
        f"7.{RUN}.3.1",
        f"7.{RUN}.3.1.1.1",
        f"7.{RUN}.3.1.",
        f".{RUN}.3.1.1",
        f"7.{RUN[:-1]}.3.1.1",
        f"7.{RUN}a.3.1.1",
        f"7.{RUN.upper()}.3.1.1",
        f"7.{RUN}.-3.1.1",
        f"7.{RUN}.3.1.1\n",
        f" 7.{RUN}.3.1.1",
        f"7.{RUN}.3.1.1x",
        f"70000.{RUN}.3.1.1",
        f"7.{RUN}.{'9' * 5000}.1.1",
        f"7.{'}' * 26}.3.1.1",
    ],
)
def test_any_other_task_id_is_not_ours(text: str) -> None:
    """Ordinary tasks of the same app pass through untouched."""
    assert AttemptId.parse(text) is None


@given(st.text())
def test_no_task_id_makes_the_parser_raise(text: str) -> None:
    """It is asked about every task of an app."""
    assert AttemptId.parse(text) is None or str(text)


def test_run_ids_sort_by_their_birth_and_are_new() -> None:
    """26 characters that fit a Redis key; a later one sorts later; no two are alike."""
    born = [0, 1, 2**20, 1_700_000_000_000, 1_700_000_000_001, 2**48 - 1]
    ids = [new_run_id(at) for at in born]
    assert ids == sorted(ids)
    assert all(is_run_id(it) for it in ids)
    assert len({new_run_id(5) for _ in range(1000)}) == 1000


@given(st.text(), st.text())
@example("a", "\x00b")
@example("a\x00", "b")
def test_a_key_determines_a_run_id(namespace: str, key: str) -> None:
    """The same key finds the same run, in every process, for ever; any text may be a key that UTF-8 can carry."""
    try:
        key.encode()
        namespace.encode()
    except UnicodeEncodeError:
        return
    assert is_run_id(run_id_for_key(namespace, key))
    assert run_id_for_key(namespace, key) == run_id_for_key(namespace, key)
    assert run_id_for_key(namespace, key) != run_id_for_key(namespace, key + "x")


def test_ids_that_are_stored_never_change() -> None:
    """Runs are found again by these after an upgrade: written down once, compared for ever."""
    assert run_id_for_key("cel", "digest:1") == RunId("3jf303n23tye7dfs228534k5b0")
    assert [shard_of(RUN, shards) for shards in (1, 4, 16)] == [0, 2, 6]


@pytest.mark.parametrize("text", ["", "a" * 25, "a" * 27, "A" * 26, "a" * 25 + "\n", "a" * 25 + "}", "é" * 26])
def test_what_is_no_run_id_never_becomes_part_of_a_key(text: str) -> None:
    """Letters and digits, 26 of them."""
    assert not is_run_id(text)


@given(st.integers(1, 4096), st.integers(0, 2**48 - 1))
def test_a_run_lives_in_one_of_the_shards(shards: int, born: int) -> None:
    """0 <= shard < shards."""
    assert 0 <= shard_of(new_run_id(born), shards) < shards


def test_runs_are_spread_over_the_shards() -> None:
    """No shard of sixteen gets more than twice its share of 4,000 runs born at one instant."""
    hits = [0] * 16
    for _ in range(4000):
        hits[shard_of(new_run_id(1_700_000_000_000), 16)] += 1
    assert max(hits) < 500
    assert min(hits) > 125


# --- reports --------------------------------------------------------------------------------------------------


@given(REPORTS)
def test_a_report_is_read_back(report: Report) -> None:
    """Whatever its fields hold, lone surrogates included; the bytes are UTF-8."""
    raw = report.to_json()
    raw.decode("utf-8")
    assert Report.from_json(raw) == report


@given(REPORTS)
def test_a_report_is_compact_json(report: Report) -> None:
    """Byte for byte what an encoder makes of its fields, in their order."""
    record = json.loads(report.to_json())
    made = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    assert report.to_json() == made
    fields = ("v", *Report._fields)
    assert list(record) == [name for name in fields if name in record]


@given(REPORTS, st.dictionaries(st.text(min_size=1), JSON, max_size=3))
def test_fields_of_a_later_version_are_ignored(report: Report, more: dict[str, Any]) -> None:
    """Old and new processes run side by side during an upgrade."""
    record = json.loads(report.to_json())
    later = {f"since_v2_{name}": value for name, value in more.items()} | record | {"v": 2}
    assert Report.from_json(json.dumps(later).encode()) == report


@pytest.mark.parametrize("oldest", [VERSION + 1, 99, "1", 1.0, True, [1]])
def test_a_report_for_newer_readers_is_refused(oldest: Any) -> None:
    """Its writer says who can understand it; anything else there is refused too, for it is not understood either."""
    raw = json.dumps({"v": 99, "min_reader": oldest, "id": "x", "end": "succeeded"}).encode()
    with pytest.raises(WireError, match="version"):
        Report.from_json(raw)


@pytest.mark.parametrize("oldest", [None, 0, VERSION])
def test_a_report_that_this_version_may_read_is_read(oldest: int | None) -> None:
    """However new its writer is."""
    assert Report.from_json(json.dumps({"v": 99, "min_reader": oldest, "id": "x", "end": "succeeded"}).encode()).id


def test_fields_without_a_value_are_left_out() -> None:
    """The commonest report is short."""
    raw = Report(f"7.{RUN}.3.1.1", "succeeded").to_json()
    assert json.loads(raw) == {"v": 1, "id": f"7.{RUN}.3.1.1", "end": "succeeded", "worker": ""}
    assert Report.from_json(raw) == Report(f"7.{RUN}.3.1.1", "succeeded", output="none")


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"")
@example(b"null")
@example(b"[]")
@example(b'"x"')
@example(b"{}")
@example(b"\xff\xfe")
@example(b"[" * 100_000)
@example(b'{"a":' * 50_000)
@example(b'{"end":"succeeded","id":' + b"9" * 10_000 + b"}")
def test_a_record_that_cannot_be_used_is_a_wire_error(raw: bytes) -> None:
    """Anything at all: it is a report, or it is refused with WireError and nothing else."""
    try:
        assert Report.from_json(raw).end in ENDS
    except WireError as refusal:
        said = refusal.record, len(str(refusal)) < 2000
    else:
        return
    assert said == ("report", True)


FIELDS = ("v", "id", "end", "worker", "claimed_at_ms", "output", "error", "retry_after_ms")


@given(REPORTS, st.sampled_from(FIELDS), JSON)
def test_a_field_of_any_type_is_read_or_refused(report: Report, name: str, value: Any) -> None:
    """One field replaced by any JSON: what is let through has the types that the scheduler counts on."""
    record = json.loads(report.to_json()) | {name: value}
    try:
        found = Report.from_json(json.dumps(record).encode())
    except WireError:
        return
    assert type(found.id) is str
    assert type(found.worker) is str
    assert found.end in ENDS
    assert found.output in OUTPUT_KINDS
    assert type(found.claimed_at_ms) in (int, type(None))
    assert type(found.retry_after_ms) in (int, type(None))
    assert type(found.error) in (dict, type(None))


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("end", "done", "`end` is not one of succeeded, failed, lost, retried"),
        ("end", None, "`end` is not one of"),
        ("output", "file", "`output` is not one of inline, blob, none"),
        ("claimed_at_ms", 1.5, "whole milliseconds"),
        ("claimed_at_ms", True, "whole milliseconds"),
        ("retry_after_ms", "5", "whole milliseconds"),
        ("error", "it broke", "`error` is not an object"),
    ],
)
def test_a_refusal_says_what_is_wrong(field: str, value: Any, problem: str) -> None:
    """The field and what it should have been, for whoever finds it in the log."""
    record = {"v": 1, "id": f"7.{RUN}.3.1.1", "end": "failed", field: value}
    with pytest.raises(WireError, match=problem):
        Report.from_json(json.dumps(record).encode())


@pytest.mark.parametrize("missing", ["id", "end"])
def test_a_report_without_its_id_or_end_is_refused(missing: str) -> None:
    """These two cannot be guessed."""
    record = {"v": 1, "id": f"7.{RUN}.3.1.1", "end": "failed"}
    del record[missing]
    with pytest.raises(WireError, match=missing):
        Report.from_json(json.dumps(record).encode())


# --- errors ---------------------------------------------------------------------------------------------------


def test_an_error_record_is_capped() -> None:
    """One failure cannot flood the store: 2,000 characters of message, the last 8,000 of the traceback."""
    record = error_record("transient", "ValueError", "x" * 10**6, traceback="a" * 10**6 + "the end")
    assert len(record["message"]) == 2000
    assert len(record["traceback"]) == 8000
    assert record["traceback"].endswith("the end")
    assert (record["kind"], record["type"], record["origin"]) == ("transient", "ValueError", "executor")


def test_an_error_record_without_a_traceback_has_no_such_field() -> None:
    """Left out, as everywhere on the wire."""
    assert error_record("lost", "WorkerLost", "gone", origin="infrastructure") == {
        "kind": "lost",
        "type": "WorkerLost",
        "message": "gone",
        "origin": "infrastructure",
        "phase": "execute",
    }
