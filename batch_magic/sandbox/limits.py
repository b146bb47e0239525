"""How many requests and tokens a minute a model takes at the endpoints that answer at once.

Knows the two buckets of each model, the headers that show them and the 429s that guard them.
Refuses to know a request beyond its number of tokens. The traps: the buckets fill by real time and
not by the service's clock, because a client that is told to wait really waits; a request larger
than the whole bucket never fits, so its refusal names no wait; and a request that is refused for
its tokens was a request all the same, as it is at the real service.
"""

import math
import time
from collections.abc import Mapping

from .refusals import Refusal

DEFAULT_LIMITS = {"requests": 30_000, "tokens": 150_000_000}  # a minute and model
_WINDOW_S = 60.0
_SLACK = 1e-6  # of a request or token: what adding fractions of seconds may lose
_UNITS = {"requests": "requests per min (RPM)", "tokens": "tokens per min (TPM)"}


class Bucket:
    """One limit: full at first, and refilled evenly so that it is full again in a minute."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._left = float(limit)
        self._filled_at = time.monotonic()

    def refill(self) -> None:
        """Add what real time has brought since the last look."""
        now = time.monotonic()
        gained = (now - self._filled_at) * self.limit / _WINDOW_S
        self._left = min(float(self.limit), self._left + gained)
        self._filled_at = now

    @property
    def remaining(self) -> int:
        """What could be taken now."""
        return math.floor(self._left + _SLACK)

    @property
    def reset_ms(self) -> int:
        """How long until it is full, if nobody takes anything."""
        return round(self._duration_s(self.limit) * 1000)

    def wait_ms(self, wanted: int) -> int:
        """Return how long until `wanted` are there; 0 when they are."""
        return math.ceil(self._duration_s(wanted - _SLACK) * 1000)

    def take(self, wanted: int) -> None:
        """Take what is there."""
        self._left -= wanted

    def _duration_s(self, level: float) -> float:
        return max(0.0, level - self._left) * _WINDOW_S / self.limit


class ModelLimits:
    """The buckets of one model."""

    def __init__(self, model: str, limits: Mapping[str, int]) -> None:
        self.limits = limits
        self._model = model
        self._buckets = {kind: Bucket(limit) for kind, limit in limits.items()}

    def refill(self) -> None:
        """Bring the buckets up to this moment, which all that follows goes by."""
        for bucket in self._buckets.values():
            bucket.refill()

    def take(self, tokens: int) -> None:
        """Count one request of so many tokens. Raises Refusal (429) when it is one too many."""
        self._take("requests", 1)
        self._take("tokens", tokens)

    def headers(self) -> dict[str, str]:
        """Return what a client is shown of the buckets as they stand."""
        shown = {}
        for kind, bucket in self._buckets.items():
            shown[f"x-ratelimit-limit-{kind}"] = str(bucket.limit)
            shown[f"x-ratelimit-remaining-{kind}"] = str(bucket.remaining)
            shown[f"x-ratelimit-reset-{kind}"] = duration_text(bucket.reset_ms)
        return shown

    def _take(self, kind: str, wanted: int) -> None:
        bucket = self._buckets[kind]
        if wanted > bucket.limit:
            raise self._too_large(kind, wanted)
        wait_ms = bucket.wait_ms(wanted)
        if wait_ms:
            raise self._too_many(kind, wanted, wait_ms)
        bucket.take(wanted)

    def _too_many(self, kind: str, wanted: int, wait_ms: int) -> Refusal:
        bucket = self._buckets[kind]
        message = (
            f"Rate limit reached for {self._model} on {_UNITS[kind]}: Limit {bucket.limit}, "
            f"Used {bucket.limit - bucket.remaining}, Requested {wanted}. "
            f"Please try again in {duration_text(wait_ms)}."
        )
        headers = {"retry-after": str(math.ceil(wait_ms / 1000)), "retry-after-ms": str(wait_ms)}
        return Refusal(429, message, type=kind, code="rate_limit_exceeded", headers=headers)

    def _too_large(self, kind: str, wanted: int) -> Refusal:
        message = (
            f"Request too large for {self._model} on {_UNITS[kind]}: "
            f"Limit {self._buckets[kind].limit}, Requested {wanted}. "
            "The input or output tokens must be reduced in order to run successfully."
        )
        return Refusal(429, message, type=kind, code="rate_limit_exceeded")


class Limits:
    """The buckets of all models, of this life: a restart begins with full ones."""

    def __init__(self) -> None:
        self._models: dict[str, ModelLimits] = {}

    def of(self, model: str, given: Mapping[str, int] | None) -> ModelLimits:
        """Return a model's buckets as they are now; new and full when its limits have changed."""
        limits = DEFAULT_LIMITS | dict(given or {})
        known = self._models.get(model)
        if known is None or known.limits != limits:
            known = self._models[model] = ModelLimits(model, limits)
        known.refill()
        return known


def duration_text(duration_ms: int) -> str:
    """Return a duration as the rate-limit headers spell it: 0s, 120ms, 1.5s, 6m0s."""
    if 0 < duration_ms < 1000:
        return f"{duration_ms}ms"
    minutes, left_ms = divmod(duration_ms, 60_000)
    seconds = f"{left_ms / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{minutes}m{seconds}" if minutes else seconds
