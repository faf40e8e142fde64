"""How attempts end where they run: each row of the table of endings, with a real worker."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.acceptance.worker.post import Post, Worker


def test_a_return_is_reported_with_its_output(either: Post) -> None:
    """A plain task's value arrives as JSON, with the worker's name and the instant of the claim."""
    told = either.wait(either.send("sample.add", 2, 3))
    assert told.short == ("succeeded", None, None)
    assert told.output == 5
    assert told.report["output"] == "inline"
    assert told.report["worker"].endswith("@here")
    assert told.report["claimed_at_ms"] > 1_600_000_000_000


def test_inputs_of_any_size_reach_their_process(either: Post) -> None:
    """Those that a pipe takes whole, those that it takes in pieces, and more of them at a time than run at once."""
    sizes = [100, 2_500, 3_000, 3_500, 4_096, 5_000, 65_536, 200_000]
    sent = [(size, either.send("sample.echo", "x" * size)) for size in 2 * sizes]
    for size, id_ in sent:
        assert either.wait(id_).short == ("succeeded", None, None)
        output = either.wait(id_).output
        assert (len(output) if isinstance(output, str) else output["bytes"] - 2) == size


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ValueError", "transient"),
        ("ZeroDivisionError", "permanent"),  # by install(errors=...)
        ("Transient", "transient"),
        ("Permanent", "permanent"),
        ("InvalidInput", "invalid_input"),
        ("RateLimited", "rate_limited"),
        ("TypeError", "transient"),  # raised inside: not the arguments' fault
        ("Ignore", "permanent"),
        ("Reject", "permanent"),
    ],
)
def test_an_exception_is_reported_with_its_kind(either: Post, name: str, kind: str) -> None:
    """Each exception becomes one failed report that says what to make of it."""
    id_ = either.send("sample.fails", name)
    assert either.wait(id_).short == ("failed", kind, name)
    either.settled()
    assert len(either.told(id_)) == 1


@pytest.mark.parametrize(
    ("name", "kind", "origin"),
    [
        ("ValueError", "transient", "executor"),
        ("ConnectionError", "transient", "external"),
        ("TimedOut", "timeout", "external"),
        ("RateLimited", "rate_limited", "external"),
        ("UnicodeError", "rate_limited", "policy"),  # by its full name in install(errors=...)
        ("SafetyRefused", "safety", "policy"),
        ("BudgetExceeded", "budget", "policy"),
        ("Cancelled", "cancelled", "policy"),
        ("InvalidInput", "invalid_input", "contract"),
        ("MemoryError", "lost", "infrastructure"),
    ],
)
def test_an_error_names_who_is_at_fault(post: Post, name: str, kind: str, origin: str) -> None:
    """Each of the five origins, by what the executor raised."""
    error = post.wait(post.send("sample.fails", name)).report["error"]
    assert (error["kind"], error["origin"], error["phase"]) == (kind, origin, "execute")


def test_an_error_names_where_the_attempt_was(post: Post) -> None:
    """Its inputs were checked, it ran, or its output was taken in."""
    wrong = post.wait(post.send("sample.add", 1, 2, 3)).report["error"]
    unfit = post.wait(post.send("sample.returns", "nan")).report["error"]
    assert (wrong["phase"], wrong["origin"]) == ("validate", "contract")
    assert (unfit["phase"], unfit["origin"]) == ("collect", "contract")


def test_an_error_carries_its_text_traceback_and_pause(post: Post) -> None:
    """The record has what a person needs, and the pause that a rate limit asked for."""
    error = post.wait(post.send("sample.fails", "ValueError", "no bread")).report["error"]
    assert error["message"] == "no bread"
    assert "raise known[name]" in error["traceback"]
    assert post.wait(post.send("sample.fails", "RateLimited")).report["retry_after_ms"] == 2500


def test_an_exception_that_does_not_pickle_keeps_its_name(either: Post) -> None:
    """Celery has to wrap it to send it to its main process; the report is made before."""
    told = either.wait(either.send("sample.raises_unpicklable"))
    assert told.short == ("failed", "transient", "Unpicklable")


def test_bad_arguments_are_an_invalid_input(either: Post) -> None:
    """A call that the function's signature refuses needs no retry."""
    assert either.wait(either.send("sample.add", 1, 2, 3)).short == ("failed", "invalid_input", "TypeError")


@pytest.mark.parametrize("what", ["nan", "infinity", "object", "surrogate", "cycle"])
def test_an_output_that_is_not_json_breaks_the_contract(either: Post, what: str) -> None:
    """Nothing that JSON cannot carry is passed on."""
    told = either.wait(either.send("sample.returns", what))
    assert told.short == ("failed", "contract", "EncodeError")
    assert told.report["error"]["origin"] == "contract"
    assert told.output is None


def test_dates_and_ids_travel_as_in_celery_results(post: Post) -> None:
    """The next task gets back what this one returned, by kombu's own forms."""
    told = post.wait(post.send("sample.returns", "dates"))
    assert told.output["at"] == {"__type__": "datetime", "__value__": "2030-01-02T00:00:00+00:00"}
    assert told.output["id"]["__type__"] == "uuid"


def test_a_date_among_the_inputs_is_a_date(either: Post) -> None:
    """In a message of its own as beside others."""
    told = {"__type__": "datetime", "__value__": "2030-01-02T00:00:00+00:00"}
    assert either.wait(either.send("sample.kind", told)).output == "datetime"


def test_a_large_output_is_put_aside(either: Post) -> None:
    """The report carries a reference with size and digest; the bytes lie under the key it names."""
    told = either.wait(either.send("sample.returns", "large"))
    assert told.report["output"] == "blob"
    data = either.client.get(told.output["blob"])
    assert data is not None
    assert json.loads(data) == "x" * 300_000
    assert told.output["bytes"] == len(data)
    assert told.output["sha256"] == hashlib.sha256(data).hexdigest()


def test_a_put_aside_output_is_fetched_for_the_task_that_needs_it(either: Post) -> None:
    """References stand anywhere in the arguments and are replaced before the task runs."""
    key = either.wait(either.send("sample.returns", "large")).output["blob"]
    header = {"v": 1, "deferred": [[0, 0, "deep", 1]]}
    value = {"deep": [0, {"blob": key, "path": []}]}
    told = either.wait(either.send("sample.echo", value, headers={"celeriac": header}))
    assert told.report["output"] == "blob"
    data = either.client.get(told.output["blob"])
    assert data is not None
    assert json.loads(data) == {"deep": [0, "x" * 300_000]}


def test_a_put_aside_output_that_is_gone_ends_the_attempt(post: Post) -> None:
    """No retry can bring it back, and infrastructure is to blame."""
    key = post.keys.blob(post.seed())
    header = {"v": 1, "deferred": [[0, 0]]}
    told = post.wait(post.send("sample.echo", {"blob": key, "path": []}, headers={"celeriac": header}))
    assert told.short == ("failed", "permanent", "Permanent")
    assert told.report["error"]["origin"] == "infrastructure"


def test_soft_time_limit(post: Post) -> None:
    """Uncaught it is a timeout; caught, the value counts."""
    uncaught = post.send("sample.sleeps", 30, soft_time_limit=0.3)
    caught = post.send("sample.sleeps", 30, True, soft_time_limit=0.3)
    assert post.wait(uncaught).short == ("failed", "timeout", "SoftTimeLimitExceeded")
    assert post.wait(caught).output == "caught"


def test_hard_time_limit_is_told_once(post: Post) -> None:
    """Celery tells of it twice; the scheduler hears it once, as a timeout of policy."""
    id_ = post.send("sample.sleeps", 30, time_limit=0.5)
    told = post.wait(id_)
    assert told.short == ("failed", "timeout", "TimeLimitExceeded")
    post.settled()
    assert len(post.told(id_)) == 1


@pytest.mark.parametrize(
    ("how", "after_ms", "type_"),
    [("plain", 7000, "Retry"), ("countdown", 1500, "ValueError"), ("quietly", 3000, "Retry")],
)
def test_retry_is_reported_and_not_published(either: Post, how: str, after_ms: int, type_: str) -> None:
    """self.retry() asks the scheduler, with the wait it wants; Celery sends nothing by itself."""
    id_ = either.send("sample.retries", how)
    told = either.wait(id_)
    assert told.short == ("retried", "transient", type_)
    assert told.report["retry_after_ms"] == after_ms
    either.settled()
    assert len(either.told(id_)) == 1
    assert not either.unacknowledged(id_)


def test_autoretry_is_a_retry(either: Post) -> None:
    """Celery's autoretry_for and backoff work, and end with us."""
    told = either.wait(either.send("sample.autoretries"))
    assert told.short == ("retried", "transient", "KeyError")
    assert told.report["retry_after_ms"] == 2000


def test_retries_exceeded_is_the_original_failure(either: Post) -> None:
    """The task's own limit ends it with the exception it gave; a task may also catch that and return."""
    assert either.wait(either.send("sample.retries", "exceeded")).short == ("failed", "transient", "ValueError")
    assert either.wait(either.send("sample.retries", "caught")).output == "fallback"


def test_retry_with_other_arguments_is_refused(either: Post) -> None:
    """The inputs of a node are fixed by its graph, so this is said and not retried."""
    assert either.wait(either.send("sample.retries", "arguments")).short == ("failed", "permanent", "Permanent")


def test_the_task_sees_its_attempt_as_its_retries(either: Post) -> None:
    """Tasks that count self.request.retries go on working."""
    id_ = either.seed(attempt=3)
    assert either.wait(either.send("sample.retries", "count", id_=id_)).output == 2


@pytest.mark.parametrize("how", ["one", "chain"])
def test_replace_keeps_the_attempt_open(either: Post, how: str) -> None:
    """The original ends silently; the replacement, which has lost our headers, reports under the same id."""
    id_ = either.send("sample.replaces", how)
    told = either.wait(id_)
    assert told.short == ("succeeded", None, None)
    assert told.output == (12 if how == "chain" else 23)
    either.settled()
    assert len(either.told(id_)) == 1


def test_requeue_runs_the_same_attempt_again(alone: Post) -> None:
    """Reject(requeue=True) gives the claim back, so the next delivery is granted at once."""
    id_ = alone.send("sample.requeues")
    assert alone.wait(id_, 10).output == "second delivery"
    alone.settled()
    assert len(alone.told(id_)) == 1


def test_out_of_memory_is_a_loss_and_the_worker_lives(either: Post, request: pytest.FixtureRequest) -> None:
    """A MemoryError ends the attempt, not the worker, and not the next worker after it."""
    id_ = either.send("sample.fails", "MemoryError")
    assert either.wait(id_).short == ("lost", "lost", "MemoryError")
    either.settled()
    assert len(either.told(id_)) == 1
    worker: Worker = request.getfixturevalue(either.queue)
    assert worker.alive()
    assert not either.unacknowledged(id_)


def test_a_task_knows_its_attempt(either: Post) -> None:
    """Facts come from the header; without it, as after some of Celery's own paths, from the id."""
    header = {"v": 1, "node": "front page", "key": "k", "correlation_id": "c", "labels": {"a": "b"}}
    id_ = either.seed(attempt=2)
    facts = either.wait(either.send("sample.facts", id_=id_, headers={"celeriac": header})).output
    assert facts == {
        "id": id_,
        "run": either.run,
        "node": "front page",
        "number": 2,
        "key": "k",
        "correlation_id": "c",
        "labels": {"a": "b"},
        "hard_end": True,
    }
    bare = either.send("sample.facts")
    node = bare.split(".")[2]
    assert either.wait(bare).output["node"] == node
    assert either.wait(bare).output["key"] == f"{either.run}.{node}.1"


def test_tasks_with_hooks_bases_and_calls_of_their_own(either: Post, request: pytest.FixtureRequest) -> None:
    """before_start, on_retry and __call__ of the user's base class still run, once, after the claim."""
    worker: Worker = request.getfixturevalue(either.queue)
    done, again = either.send("sample.careful"), either.send("sample.careful", True)
    assert either.wait(done).output == {"wrapped": "done"}
    assert either.wait(again).short[0] == "retried"
    either.settled()
    assert worker.notes().count(f"before_start {done}") == 1
    assert worker.notes().count(f"on_retry {again}") == 1


def test_tasks_of_every_make(either: Post) -> None:
    """Class-based and shared tasks are covered like decorated ones."""
    assert either.wait(either.send("sample.older", 21)).output == 42
    assert either.wait(either.send("sample.shared", 1)).output == 101
