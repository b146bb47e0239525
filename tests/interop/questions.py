"""The questions that every client asks, and the check that each answer belongs to its question.

Knows how the sandbox's stub answers: with the question's own words. Knows no client.
"""

from collections.abc import Iterable, Mapping

CHAT_MODEL = "gpt-4o-mini"
EMBEDDING_MODEL = "text-embedding-3-small"
COUNT = 12
_PLACES = ("Zürich", "São Paulo", "東京", 'the "Old" Town', "Kraków\tcentre", "a back\\slash")


def questions(count: int = COUNT) -> dict[str, str]:
    """Return one question per custom_id, no two alike, each short enough to be quoted whole."""
    places = [_PLACES[number % len(_PLACES)] for number in range(count)]
    return {f"row-{at:02}": f"{at * 7919}: why {place}?" for at, place in enumerate(places)}


def is_answer(text: str | None, question: str) -> bool:
    """Whether a text is the stub's answer to this very question."""
    quoted = " ".join(question.split())
    return text is not None and text.startswith("stub ") and text.endswith(f": {quoted}")


def check_answers(asked: Mapping[str, str], answered: Mapping[str, str | None]) -> None:
    """Fail unless every question has its own answer and nothing else has been answered."""
    assert sorted(answered) == sorted(asked)
    wrong = {key: text for key, text in answered.items() if not is_answer(text, asked[key])}
    assert not wrong


def check_in_order(asked: Iterable[str], answered: Iterable[str | None]) -> None:
    """Fail unless the answers belong to the questions one by one."""
    for question, text in zip(asked, answered, strict=True):
        assert is_answer(text, question), (question, text)
