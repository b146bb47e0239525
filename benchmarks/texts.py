"""What the benchmarks work on: reviews, half English and half Korean by bytes, and their lines.

A request line is about 2,000 bytes: the constant envelope with a system message, then a title
and a body of 10 to 13 sentences in turn English and Korean. A result line is about 2,000 bytes:
the whole envelope of a real chat completion (ids, logprobs, usage with its details, tier,
fingerprint) around an answer of about 1,250 bytes made of the same sentences.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pandas as pd

SYSTEM = 'You label product reviews. Answer with one JSON object: {"label": "positive|negative"}.'
TEMPLATE = f"system:\n{SYSTEM}\nuser:\nTitle: {{{{ title }}}}\nReview:\n{{{{ body }}}}\n"
MODEL = "gpt-5-mini"
RUN_ID = "r20261122-4f9a"

_ENGLISH = (
    "The parcel came two days late, but nothing inside was damaged at all by the weather.\n",
    'My sister said "never again" after a week; I have used mine for a year without trouble.\n',
    "For this price the sound is astonishing, although the case scratches when you look at it.\n",
    "Support answered within an hour and sent a new cable; 10/10 for them, 6/10 for the thing.\n",
)
_KOREAN = (
    "배송은 이틀 늦었지만 안에 든 물건은 하나도 상하지 않았습니다.\n",
    "언니는 다시는 안 산다고 했는데 저는 일 년째 문제없이 씁니다.\n",
    "이 가격에 이런 소리가 난다니 놀랍지만 겉면이 너무 잘 긁혀요.\n",
    "문의한 지 한 시간 만에 답이 왔고 새 케이블도 보내 주셨어요.\n",
)


def _sentences(dice: random.Random, pairs: int) -> str:
    return "".join(dice.choice(_ENGLISH) + dice.choice(_KOREAN) for _ in range(pairs))


def reviews(rows: int) -> pd.DataFrame:
    """A frame of three columns; `stars` is not read by the template."""
    dice = random.Random(rows)
    return pd.DataFrame(
        {
            "title": [f"Review {n}: {dice.choice(_KOREAN).strip()}" for n in range(rows)],
            "body": [_sentences(dice, dice.choice((8, 9))) for _ in range(rows)],
            "stars": [dice.randint(1, 5) for _ in range(rows)],
        }
    )


def result_lines(rows: int) -> Iterator[tuple[int, bytes]]:
    """Positions and result lines, in shuffled order, one in fifty of them an HTTP error."""
    dice = random.Random(rows)
    order = list(range(rows))
    dice.shuffle(order)
    for position in order:
        body = _error() if position % 50 == 7 else _completion(dice, position)
        line = {
            "id": f"batch_req_{dice.getrandbits(128):032x}",
            "custom_id": f"{RUN_ID}-{position}",
            "response": {
                "status_code": 429 if "error" in body else 200,
                "request_id": f"{dice.getrandbits(128):032x}",
                "body": body,
            },
            "error": None,
        }
        yield position, json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _error() -> dict[str, object]:
    message = "Rate limit reached for gpt-5-mini on requests per min (RPM): Limit 500."
    return {"error": {"message": message, "type": "requests", "param": None, "code": "rate_limit"}}


def _completion(dice: random.Random, position: int) -> dict[str, object]:
    given, made = dice.randint(300, 500), dice.randint(200, 400)
    return {
        "id": f"chatcmpl-{dice.getrandbits(100):025x}",
        "object": "chat.completion",
        "created": 1_790_000_000 + position,
        "model": "gpt-5-mini-2025-08-07",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": f"{position}: " + _sentences(dice, dice.choice((6, 7))),
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": given,
            "completion_tokens": made,
            "total_tokens": given + made,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 64,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": None,
    }
