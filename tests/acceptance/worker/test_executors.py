"""@executor functions in a real worker, and the contracts that workers publish."""

from __future__ import annotations

import json

from tests.acceptance.worker.post import Post, Worker


def test_inputs_are_checked_and_converted(either: Post) -> None:
    """What the annotations say is what the function gets; what they refuse never reaches it."""
    told = either.wait(either.send("sample.topics", "tea bread jam", kwargs={"at": "2030-01-01T00:00:00Z"}))
    assert told.output == [{"name": "tea", "weight": 0.5}, {"name": "bread", "weight": 0.5}]
    wrong = either.wait(either.send("sample.topics", ["tea"], "many"))
    assert wrong.short == ("failed", "invalid_input", "InvalidInput")
    assert wrong.report["error"]["origin"] == "contract"
    assert "limit" in wrong.report["error"]["message"] or "1:" in wrong.report["error"]["message"]
    missing = either.wait(either.send("sample.topics"))
    assert missing.short == ("failed", "invalid_input", "InvalidInput")


def test_a_wrong_output_is_never_passed_on(either: Post) -> None:
    """A value that breaks the declared type or its limits ends the attempt as contract, with no output."""
    for text in ("wrong", "type"):
        told = either.wait(either.send("sample.topics", text))
        assert told.short == ("failed", "contract", "ContractBroken")
        assert told.report["error"]["origin"] == "contract"
        assert told.output is None


def test_declared_exceptions_have_their_kind(either: Post) -> None:
    """@executor(errors=...) says what a foreign exception means."""
    assert either.wait(either.send("sample.topics", "key")).short == ("failed", "invalid_input", "KeyError")


def test_what_a_worker_has_loaded_is_no_more_looked_through_for_garbage(either: Post) -> None:
    """In its pool processes, the first ones and those that come later, and where its threads run tasks."""
    assert either.wait(either.send("sample.frozen")).output > 20_000


def test_a_context_parameter_is_filled(either: Post) -> None:
    """The attempt's facts come as an argument where the function asks for them."""
    header = {"v": 1, "node": "name it"}
    told = either.wait(either.send("sample.knows", {"name": "tea", "weight": 1}, headers={"celeriac": header}))
    assert told.output == "tea in attempt 1 of name it"


def test_contracts_are_published(post: Post, processes: Worker) -> None:
    """All tasks but Celery's own; schemas where annotations are enforced or plain; the class a worker serves."""
    found = {k.decode(): json.loads(v) for k, v in post.client.hgetall("cel:executors").items()}
    assert int(post.client.get("cel:executors:version") or 0) >= 1
    assert not [name for name in found if name.startswith("celery.")]
    topics = found["sample.topics"]
    assert topics["queue_class"] == "standard-low"
    assert (topics["timeout_seconds"], topics["soft_timeout_seconds"]) == (60, 50)
    assert (topics["cost"], topics["purity"], topics["version"], topics["doc"]) == (0.5, "pure", "3", "Find topics.")
    assert list(topics["input_schema"]["properties"]) == ["text", "limit", "at"]
    assert topics["input_schema"]["required"] == ["text"]
    assert topics["output_schema"]["type"] == "array"
    assert "ctx" not in found["sample.knows"]["input_schema"]["properties"]
    add = found["sample.add"]
    assert add["queue_class"] == "sample-class"
    assert add["input_schema"]["properties"]["a"]["type"] == "integer"
    assert add["output_schema"] == {"type": "integer"}
    assert add["doc"] == "Sum of two numbers."
    assert found["sample.echo"]["input_schema"] is None
    assert found["sample.retries"]["output_schema"] is None
    assert found["sample.older"]["doc"] is None
    assert found["sample.add"]["celery_retries"] == []
    assert "max_retries=5" in found["sample.autoretries"]["celery_retries"]
    warned = "sample.autoretries declares autoretry_for=(<class 'KeyError'>,), max_retries=5, retry_backoff=2 to Celery"
    assert warned in processes.text()
