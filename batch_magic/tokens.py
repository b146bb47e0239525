"""How many input tokens request lines have: counted, or calibrated on a sample of them.

It knows the tokenizers of OpenAI's models, if the extra `[tokens]` is installed, and what a
request holds besides its texts; it refuses to reach for the net, and to count what an image
costs: it only says that there are some. `usage` is the authority, and all here is for planning.
The trap is to scale a sample up by its bytes: a byte of English, of Korean and of the JSON around
them are not worth the same, so lines, ASCII and other bytes each have a price of their own.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache, lru_cache, partial
from itertools import accumulate
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch_magic import wording
from batch_magic.records import Endpoint, Lines

# --- the tokens of a text -------------------------------------------------------------------

_OLDER = re.compile(r"(?:ft:)?(?:gpt-4(?!o|\.\d)|gpt-3|text-embedding-|davinci-002|babbage-002)")
_PROOF = "Tokens, 토큰 1234 <|endoftext|>\n"
_PROVEN = {"o200k_base": 14, "cl100k_base": 16}


@dataclass(frozen=True, slots=True)
class Counter:
    """Tells how many tokens a text has."""

    count: Callable[[str], int]


def counter(model: str = "") -> Counter | None:
    """Return the exact counter of a model's texts, None if no tokenizer is installed.

    gpt-4, gpt-3.5 and all embeddings have cl100k_base (tiktoken's model.py), by which Korean has
    1.6 times the tokens; models since gpt-4o and names that are not known have o200k_base. Text
    like "<|endoftext|>" is ordinary. The first call loads the tokenizer: 0.4 s.
    """
    return _counter("cl100k_base" if _OLDER.match(model) else "o200k_base")


@cache
def _counter(encoding: str) -> Counter | None:
    try:
        count = partial(_tokens, encoding=encoding)
        if count(_PROOF) != _PROVEN[encoding]:
            return None
    except Exception:  # not installed, or of a version that has changed: the guess is left
        return None
    return Counter(count)


def _tokens(text: str, encoding: str) -> int:
    # Linear: 16 MB of one letter, of blanks, base64 or ideographs, in 0.05 to 1 s. batch_count()
    # says the same and takes 29 µs a call in place of 0.7.
    from toktok import truncate

    try:
        return int(truncate(text, 0, encoding)[1])
    except UnicodeEncodeError:  # half of a pair: U+FFFD in its place, as tiktoken has it
        mended = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return int(truncate(mended, 0, encoding)[1])


# Tokens for each character, by its first byte: letters and blanks; digits and signs; accented
# Latin; Greek, Cyrillic, Arabic; what has three bytes, Kana to Hangul; emoji. Measured on Debian's
# handbook in 14 languages, on Python's library, on reviews, JSON, addresses, tables made for it.
_WORTHS = {"o200k_base": (0.2, 0.6, 0.9, 0.3, 0.72, 2), "cl100k_base": (0.2, 0.6, 1.2, 0.7, 1.1, 3)}
_BLANKS_AND_LETTERS = [*b" \t\n\r", *range(0x41, 0x5B), *range(0x61, 0x7B)]
_WIDE_FIRSTS = (0xCA - 0xC0, 0xE0 - 0xCA, 0xF0 - 0xE0, 0x100 - 0xF0)  # values of the byte, each
# The true number over the guess, there: from 0.81 (Russian) to 1.30 (capitals, hex digits). It is
# 2.5 for base64; by cl100k_base 0.66 for Russian and 1.41 for Greek.
_GUESS_LOW, _GUESS_HIGH = 0.8, 1.35


def _guesser(encoding: str) -> Counter:
    letter, sign, *wide = _WORTHS[encoding]
    worths = np.zeros(256)  # of the bytes that follow a first one: nothing
    worths[:0x80] = sign
    worths[_BLANKS_AND_LETTERS] = letter
    worths[0xC0:] = np.repeat(wide, _WIDE_FIRSTS)
    return Counter(partial(_guessed, worths=worths))


def _guessed(text: str, worths: NDArray[np.float64]) -> int:
    data = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)
    return round(float(np.bincount(data, minlength=256) @ worths))


# --- the tokens of a request ----------------------------------------------------------------

# OpenAI's cookbook, "How to count tokens with tiktoken": each message is opened and closed, and
# the answer is begun; a name costs one besides its text.
_PER_MESSAGE, _PER_ANSWER, _PER_NAME = 3, 3, 1
_FIELDS: Mapping[str, str] = {Endpoint.CHAT: "messages", Endpoint.COMPLETIONS: "prompt"}
_IMAGES = ("image_url", "input_image")


@dataclass(frozen=True, slots=True)
class Input:
    """What one request holds: the tokens of its texts, and images, which are in none of them."""

    tokens: int
    images: int


def request_tokens(line: bytes, endpoint: str, counter: Counter) -> Input:
    """Count the input tokens of one request line, as `wire.Encoder` writes it.

    Exact for embeddings and completions, and for the texts of messages with the framing that chat
    has. A schema and tools count as compact JSON, which is about what the model is shown: for the
    cookbook's tool 119 where the service counted 101. Parts other than texts count nothing.
    """
    body = json.loads(line)["body"]
    given = body.get(_FIELDS.get(endpoint, "input"))
    has_messages = endpoint in (Endpoint.CHAT, Endpoint.RESPONSES)
    tokens = _dialogue(body, given, counter) if has_messages else _content(given, counter)
    return Input(tokens, _images(given))


def _dialogue(body: Mapping[str, Any], given: object, counter: Counter) -> int:
    messages = list(given) if isinstance(given, list) else [{"role": "user", "content": given}]
    if said := body.get("instructions"):
        messages.append({"role": "system", "content": said})
    tokens = _PER_ANSWER + sum(_message(one, counter) for one in messages)
    return tokens + sum(counter.count(_json(one)) for one in _shapes(body))


def _message(message: object, counter: Counter) -> int:
    if not isinstance(message, Mapping):
        return _PER_MESSAGE + _content(message, counter)
    tokens = _PER_MESSAGE + sum(
        _content(message.get(part), counter) for part in ("role", "name", "content")
    )
    rest = {name: message[name] for name in message.keys() - {"role", "name", "content", "type"}}
    tokens += counter.count(_json(rest)) if rest else 0  # calls of tools, and what they gave
    return tokens + (_PER_NAME if "name" in message else 0)


def _content(value: object, counter: Counter) -> int:
    """Count a text, a list of texts, of tokens or of parts."""
    if isinstance(value, str):
        return counter.count(value)
    if isinstance(value, list):
        return sum(_content(one, counter) for one in value)
    if isinstance(value, Mapping):
        return _content(value.get("text"), counter)
    return 1 if isinstance(value, int) else 0


def _images(value: object) -> int:
    if isinstance(value, list):
        return sum(map(_images, value))
    if not isinstance(value, Mapping):
        return 0
    return 1 if value.get("type") in _IMAGES else _images(value.get("content"))


def _shapes(body: Mapping[str, Any]) -> Iterator[object]:
    """Yield what a model is shown besides the messages: the answer's schema, and tools."""
    text = body.get("text")
    form = text.get("format") if isinstance(text, Mapping) else body.get("response_format")
    if isinstance(form, Mapping) and form.get("type") == "json_schema":
        yield form.get("json_schema", form)
    if tools := body.get("tools"):
        yield tools


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# --- the tokens of all lines ----------------------------------------------------------------


class Method(Enum):
    """How a number of tokens was come by."""

    COUNTED = "counted"  # every line
    CALIBRATED = "calibrated"  # a sample was counted, the others are known by their bytes
    BY_BYTES = "guessed by bytes"  # without a tokenizer


@dataclass(frozen=True, slots=True)
class Counted:
    """The input tokens of all lines; about 19 times of 20 they are within `low` and `high`.

    Images are in none of these numbers: `has_images` says that there are some.
    """

    tokens: int
    low: int
    high: int
    requests: int
    bytes: int  # of all lines
    how: Method
    sampled: int  # lines that were read
    has_images: bool
    long_requests: int = 0  # those whose price may be another for their length alone
    long_bytes: int = 0  # of them

    @property
    def basis(self) -> str:
        """What the number rests on, as it is said: `calibrated on 1,000 rows`."""
        on = f" on {wording.counted(self.sampled, 'row')}"
        return self.how.value + (on if self.how is Method.CALIBRATED else "")


@dataclass(frozen=True, slots=True)
class _Kept:
    """A line of the sample; `line` is without the data of its images, `size` is with it."""

    rank: float
    size: int
    line: bytes


# Prices have a step at 200,000 or 272,000 tokens (genai-prices); a token has a byte at least.
_LONG_BYTES = 200_000
_MOST_LINES = 1_000
_MOST_BYTES = 8_000_000  # counted in 0.1 s, base64 in 0.6 s
_LEAST_LINES = 30  # however long they are
_REMEMBERED = 64  # texts: those that are the same in every line are a few, and come each time
# Multiples of the golden ratio stand evenly on a circle (Weyl), at no step that a pattern of rows
# could share. A line is in the sample if it stands before its size times the bound that all have.
_GOLDEN = np.uint64(0x9E37_79B9_7F4A_7C15)
# Where a JSON string is nothing else: in a page of HTML it is text, which is paid for.
_IMAGE_DATA = re.compile(
    rb'"data:image/(?<=[:,\[]"data:image/)([^"\\,]{,80};base64,)[A-Za-z0-9+/=]*(?=")'
)
_IMAGE = b'"data:image/'
_TURN = 2.0**64  # once round the circle
_BLOCK = 1 << 18  # bytes: stays in the cache
_MOST_PER_BYTE = 0.6  # tokens; digits and signs have as many, no language has
_WITHIN = 2.2  # standard errors


class Tally:
    """Told of all lines that will be sent to a model, says how many input tokens they have.

    Up to 1,000 lines and 8 MB every line is counted. Of more, so many are a sample: the longer a
    line, the likelier it is in it, since a few may hold most of the text. Without a counter the
    tokens of the texts are guessed by their bytes.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._requests = self._bytes = self._wide = 0
        self._long = self._long_bytes = 0
        self._kept: list[_Kept] = []
        self._held = 0  # bytes of what is kept
        self._below = math.inf  # the bound: lines of a lower rank are kept

    def add(self, lines: Lines) -> None:
        """Take the next lines; 0.2 ms for a megabyte of them."""
        sizes = np.asarray(lines.sizes, dtype=np.int64)
        places = np.arange(1, len(sizes) + 1, dtype=np.uint64) + np.uint64(self._requests)
        ranks = (places * _GOLDEN) / sizes
        self._requests += len(sizes)
        self._bytes += len(lines.data)
        if sizes.max(initial=0) >= _LONG_BYTES:
            is_long = sizes >= _LONG_BYTES
            self._long += int(is_long.sum())
            self._long_bytes += int(sizes[is_long].sum())
        self._wide += _wide(lines.data)
        self._keep(lines.data, sizes, ranks)
        if len(self._kept) > 2 * _MOST_LINES or self._held > 2 * _MOST_BYTES:
            self._thin()

    def result(self, counter: Counter | None) -> Counted:
        """Count what was kept, and say what that means for all lines; None guesses."""
        self._thin()
        older = self._endpoint == Endpoint.EMBEDDINGS
        judge = counter or _guesser("cl100k_base" if older else "o200k_base")
        remembers = Counter(lru_cache(_REMEMBERED)(judge.count))
        read = [request_tokens(one.line, self._endpoint, remembers) for one in self._kept]
        has_images = any(one.images for one in read)
        total, error = self._estimated([one.tokens for one in read], has_images)
        low, high = total - _WITHIN * error, total + _WITHIN * error
        if counter is None:
            low, high = _GUESS_LOW * low, _GUESS_HIGH * high
        return Counted(
            tokens=round(total),
            low=max(0, round(low)),
            high=round(high),
            requests=self._requests,
            bytes=self._bytes,
            how=self._how(counter),
            sampled=len(read),
            has_images=has_images,
            long_requests=self._long,
            long_bytes=self._long_bytes,
        )

    def _how(self, counter: Counter | None) -> Method:
        if counter is None:
            return Method.BY_BYTES
        return Method.COUNTED if len(self._kept) == self._requests else Method.CALIBRATED

    def _keep(self, data: bytes, sizes: NDArray[np.int64], ranks: NDArray[np.float64]) -> None:
        found = _lowest(ranks, self._below)
        starts = np.cumsum(sizes)[found] - sizes[found]
        for n, start in zip(found.tolist(), starts.tolist(), strict=True):
            line = data[start : start + int(sizes[n])]
            lean = _IMAGE_DATA.sub(rb'"data:image/\1', line) if _IMAGE in line else line
            self._kept.append(_Kept(float(ranks[n]), len(line), lean))
            self._held += len(lean)

    def _thin(self) -> None:
        """Keep the lines of the lowest ranks, as many as may be counted."""
        self._kept.sort(key=_rank)
        held = list(accumulate(len(one.line) for one in self._kept))
        most = min(_MOST_LINES, max(_LEAST_LINES, bisect_right(held, _MOST_BYTES)))
        if len(self._kept) > most:
            self._below = self._kept[most].rank
            self._held = held[most - 1]
            del self._kept[most:]

    def _estimated(self, tokens: list[int], has_images: bool) -> tuple[float, float]:
        """Return the tokens of all lines, and their standard error; exact if all were kept.

        A regression estimator on a Poisson sample (Särndal, Swensson and Wretman, Model Assisted
        Survey Sampling, ch. 6): bytes have their price, and what prices leave unexplained is as
        much for each line on average. Data of images is no text: with any, bytes have no price.
        """
        if not tokens:
            return 0.0, 0.0
        chances = np.minimum(1, self._below * np.array([one.size for one in self._kept]) / _TURN)
        stand_for = 1 / chances  # lines of the frame, each
        known = _kinds([one.line for one in self._kept])
        had = np.array(tokens, dtype=np.float64)
        prices = np.zeros(2) if has_images else _prices(had, known, stand_for)
        rest = had - known @ prices
        usual = float(np.average(rest, weights=stand_for))
        total = self._requests * usual + float([self._bytes - self._wide, self._wide] @ prices)
        error = np.sqrt(np.sum((1 - chances) * (stand_for * (rest - usual)) ** 2))
        return total, float(error)


_rank = attrgetter("rank")


def _kinds(lines: list[bytes]) -> NDArray[np.float64]:
    """Return the bytes of each line that are ASCII, and those that are not (n x 2)."""
    wide = np.array([_wide(line) for line in lines])
    sizes = np.array([len(line) for line in lines])
    return np.stack([sizes - wide, wide], axis=1).astype(np.float64)


def _prices(
    tokens: NDArray[np.float64], kinds: NDArray[np.float64], stand_for: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what a further byte of ASCII, and one of another kind, has of a token.

    Lines that are all of one length tell nothing of it: what no text can have is cut off.
    """
    from_usual = kinds - np.average(kinds, axis=0, weights=stand_for)
    weights = np.sqrt(stand_for)
    more = tokens - np.average(tokens, weights=stand_for)
    found, *_ = np.linalg.lstsq(from_usual * weights[:, None], more * weights, rcond=None)
    return np.asarray(np.clip(found, 0, _MOST_PER_BYTE))


def _lowest(ranks: NDArray[np.float64], below: float) -> NDArray[np.intp]:
    """Return the places of ranks below, in order; of too many the lowest.

    It is one more than may be counted, so that `_thin` sees that there are more.
    """
    found = np.flatnonzero(ranks < below)
    if len(found) > _MOST_LINES + 1:
        found = np.sort(np.argpartition(ranks, _MOST_LINES)[: _MOST_LINES + 1])
    return found


def _wide(data: bytes) -> int:
    """Count the bytes that are not ASCII."""
    if data.isascii():
        return 0
    signed = np.frombuffer(data, dtype=np.int8)
    return sum(
        int(np.count_nonzero(signed[at : at + _BLOCK] < 0)) for at in range(0, len(data), _BLOCK)
    )
