"""The question example by itself: what is retrieved, what the validator refuses, which way a run goes then."""

from __future__ import annotations

import pytest

from scheduler.worker import ContractBroken, Permanent
from tasks.examples import rag
from tests.unit.core.played import Played

PASSAGES = [rag.Passage(source="a 1", text="It is so."), rag.Passage(source="a 2", text="It was so.")]
DRAFTS = [
    ("It is so [a 1].", ""),
    ('"It is so." [a 1]', ""),
    ('"It was so." [a 1][a 2]', ""),
    ("It is so.", "cites nothing"),
    ("", "cites nothing"),
    ("It is so [a 9].", "cites a 9, which was not retrieved"),
    ('"It is not so." [a 1]', "quotes 'It is not so.', which does not stand there"),
    ('"It was so." [a 1]', "quotes 'It was so.', which does not stand there"),
]


@pytest.mark.parametrize(("text", "wrong"), DRAFTS)
def test_the_validator(text: str, wrong: str) -> None:
    """Each row: a draft, and what is wrong with it."""
    assert rag.problem_of(text, PASSAGES) == wrong


def test_a_wider_look_finds_more() -> None:
    """Nothing on the first shelf, something on all of them."""
    question = "How is a metal filter cleaned?"
    assert rag.retrieve(question, ["handbook"]).passages == []
    assert [it.source for it in rag.retrieve(question, list(rag.SHELVES)).passages] == ["archive 77", "letters 5"]


def test_a_draft_that_is_refused_is_no_output() -> None:
    """The attempt fails as a broken contract, told with its parameters; what the script lacks is final."""
    near = rag.Found(passages=PASSAGES)
    question = "Which slices may go into the toaster?"
    with pytest.raises(ContractBroken, match=r"cites nothing \(temperature 0.8, style free\)"):
        rag.generate(question, near, None, 0.8, "free")
    with pytest.raises(Permanent, match="no answer"):
        rag.generate("Why?", near, None, 0.8, "free")


@pytest.mark.parametrize(("passages", "branch", "sent"), [(2, "enough", "generate"), (1, "thin", "retrieve wider")])
def test_too_little_leads_to_a_wider_look(passages: int, branch: str, sent: str) -> None:
    """The choice counts what was retrieved; the wider look alone holds `generate` back."""
    play = Played(rag.graph())
    play.ends("retrieve", {"passages": [{"source": "a 1", "text": "x"}] * passages})
    assert play.values["sufficient"] == {"branch": branch}
    assert play.sent == [sent]


def test_the_third_refused_draft_goes_to_a_person() -> None:
    """Two steps of the ladder with changed inputs, then the question; the run goes well all the same."""
    play = Played(rag.graph())
    play.ends("retrieve", {"passages": [{"source": "a 1", "text": "x"}] * 2})
    for _ in range(2):
        play.fails("generate", "contract")
        play.wakes("generate")
        assert play.sent == ["generate"]
    play.fails("generate", "contract")
    assert play.states()["generate"] == "failed"
    assert play.states()["person"] == "waiting"
    assert [why.partition(" in 0 ms")[0] for key, move, why in play.log if (key, move) == ("generate", "retry")] == [
        "contract: rung 2 of 3, with changed inputs",
        "contract: rung 3 of 3, with changed inputs",
    ]


@pytest.mark.parametrize(
    ("draft", "decision", "by"),
    [
        (rag.Draft(text="x", temperature=0.8, style="free"), None, "model"),
        (None, {"choice": "desk"}, "desk"),
        (None, {"choice": "drop"}, "nobody"),
        (None, None, "nobody"),
    ],
)
def test_who_replies(draft: rag.Draft | None, decision: dict[str, str] | None, by: str) -> None:
    """The model, or whom a person has named."""
    assert rag.reply(draft, decision).by == by
