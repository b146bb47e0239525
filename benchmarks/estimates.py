"""How near an estimate of input tokens comes to a count of every line, and what it takes.

`python -m benchmarks.estimates FRAMES` prints three errors over so many frames, in parts of the
true number (the median, the one that 19 of 20 are below, the largest), and the CPU seconds that a
million short lines take once they are rendered. The frames are of 1,000 to 30,000 rows (of fewer
every line is counted), English, Korean and both in one row, of lengths from a word to pages, in
four orders: as they come, the longest last, one language after the other, and every seventh row
long. The true number is counted line by line with the tokenizer that the estimate has; it agrees
with tiktoken's on all texts tried.
"""

from __future__ import annotations

import pydoc_data.topics
import random
import sys
import time
from collections.abc import Callable

import numpy as np
import orjson

from batch_magic.records import Endpoint, Lines
from batch_magic.tokens import Counter, Tally, counter, request_tokens
from benchmarks.texts import MODEL, SYSTEM

MILLION = 1_000_000
CHUNK_ROWS = 4_096
SHORT_BYTES = 250

_ENGLISH = " ".join(" ".join(pydoc_data.topics.topics.values()).split())
_SAID = (
    "배송은 이틀 늦었지만 안에 든 물건은 하나도 상하지 않았습니다 언니는 다시는 "
    "안 산다고 했는데 저는 일 년째 문제없이 씁니다 가격에 비해 소리가 좋고 "
    "겉면이 너무 잘 긁혀요 문의한 지 한 시간 만에 답이 왔고 새 케이블도 보내 "
    "주셨어요 화면이 밝아서 밖에서도 잘 보이는데 배터리는 반나절을 못 갑니다 "
    "설명서가 영어뿐이라 조금 아쉬웠고 색상은 사진보다 어둡네요 아이가 매일 "
    "가지고 놀아요 재구매 의사 있습니다 환불 요청했더니 삼일 걸렸음 향이 "
    "은은하고 오래가서 선물용으로도 추천합니다 사이즈가 작게 나왔으니 한 치수 "
    "크게 주문하세요"
)
_KOREAN = _SAID.split()


def _english(dice: random.Random, size: int) -> str:
    at = dice.randrange(len(_ENGLISH) - size)
    return _ENGLISH[at : at + size]


def _korean(dice: random.Random, size: int) -> str:
    return " ".join(dice.choices(_KOREAN, k=size // 4 + 1))


def _texts(dice: random.Random) -> list[str]:
    """The rows of one frame."""
    rows = round(1_000 * 30 ** dice.random())
    share, middle, spread = dice.random(), dice.uniform(2.5, 6.5), dice.uniform(0.1, 1.3)
    texts = []
    for _ in range(rows):
        size = 1 + min(20_000, int(dice.lognormvariate(middle, spread)))
        made = [_korean(dice, size) if dice.random() < share else _english(dice, size)]
        made += [_english(dice, size)] if dice.random() < 0.2 else []
        texts.append(" ".join(made))
    order = dice.randrange(4)
    if order == 1:
        texts.sort(key=len)
    elif order == 2:
        texts.sort(key=str.isascii)
    elif order == 3:
        texts = [text if n % 7 else text * 9 for n, text in enumerate(texts)]
    return texts


def _line(n: int, text: str) -> bytes:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    asked = {"model": MODEL, "messages": messages}
    line = {"custom_id": f"r-{n}", "method": "POST", "url": str(Endpoint.CHAT), "body": asked}
    return orjson.dumps(line) + b"\n"


def _tallied(lines: list[bytes]) -> Tally:
    tally = Tally(Endpoint.CHAT)
    for at in range(0, len(lines), CHUNK_ROWS):
        tally.add(_chunk(lines[at : at + CHUNK_ROWS]))
    return tally


def _chunk(lines: list[bytes]) -> Lines:
    return Lines(range(len(lines)), b"".join(lines), [len(line) for line in lines], b"")


def error(dice: random.Random, by: Counter) -> float:
    """By how much one frame's estimate is off, in parts of the true number."""
    lines = [_line(n, text) for n, text in enumerate(_texts(dice))]
    true = sum(request_tokens(line, Endpoint.CHAT, by).tokens for line in lines)
    return abs(_tallied(lines).result(by).tokens - true) / true


def million(by: Counter) -> Callable[[], object]:
    """The estimate for a million short lines, which stand ready in chunks."""
    dice = random.Random(1)
    room = SHORT_BYTES - len(_line(0, ""))
    kinds = [_line(n, _english(dice, room)) for n in range(CHUNK_ROWS // 2)]
    kinds += [_line(n, _korean(dice, room // 2)) for n in range(CHUNK_ROWS // 2)]
    dice.shuffle(kinds)
    chunk = _chunk(kinds)

    def estimate() -> object:
        tally = Tally(Endpoint.CHAT)
        for _ in range(MILLION // CHUNK_ROWS):
            tally.add(chunk)
        return tally.result(by)

    return estimate


def main(frames: int) -> None:
    """Print the figures."""
    by = counter(MODEL)
    assert by is not None, "the estimate is by a tokenizer: pip install 'batch_magic[tokens]'"
    errors = [error(random.Random(seed), by) for seed in range(frames)]
    estimate, seconds = million(by), []
    for _ in range(3):
        start = time.process_time()
        estimate()
        seconds.append(time.process_time() - start)
    print(*np.percentile(errors, [50, 95, 100]), min(seconds))


if __name__ == "__main__":
    main(int(sys.argv[1]))
