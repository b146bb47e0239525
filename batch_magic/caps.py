"""How much may be spent: a run's cap, and from which sum on its user is asked first.

It knows what a run may come to in its lane and whose leave that takes, and refuses to know how an
estimate is made. The trap: what nobody can bound is no reason to spend it, so where a cap or a
question was wanted, not known counts as endless; only `any` is leave for that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from batch_magic.costs import output_cap
from batch_magic.errors import CellError
from batch_magic.records import Ending, Endpoint, Estimate, RunRecord, Snapshot, Span
from batch_magic.wording import dollars, span_of_dollars


@dataclass(frozen=True, slots=True)
class Leave:
    """Who is asked before money is spent, and from which sum on."""

    above_usd: float  # 0: nobody wants to be asked
    may_ask: bool = False  # somebody is there
    is_sample: bool = False  # it is there to find out what a run costs

    def to_be_asked(self, run: RunRecord, known: RunRecord | None = None) -> float | None:
        """Return for how much the user is to be asked first, None if the run may be submitted.

        `known` is the run that is just the same: in flight it costs nothing more. Raises CellError
        where the cost is capped, and where nobody is there to ask.
        """
        if known is not None and known.ending is None:
            return None
        if known is not None:  # it goes on in its own lane, whatever this cell says
            run = _under(known, run.request.max_cost_usd)
        if why := refusal(run, is_sample=self.is_sample):
            raise CellError(f"not submitted: {why}")
        asks_usd = asked_for(run, self.above_usd, is_sample=self.is_sample)
        if asks_usd is not None and (self.is_sample or not self.may_ask):
            said = f"{self.why(run, asks_usd)}; allow it with --max-cost {_enough(asks_usd)}"
            raise CellError(f"not submitted: {said}")
        return asks_usd

    def lets_go_on(self, lender: RunRecord, cap_usd: float | None) -> bool:
        """Tell whether a stopped run may go on for the sake of another that is capped so."""
        run = _under(lender, cap_usd)
        return refusal(run) is None and asked_for(run, self.above_usd) is None

    def why(self, run: RunRecord, asks_usd: float) -> str:
        """Say why a run waits for leave."""
        limit = f"confirm_above_usd is {dollars(self.above_usd)}"
        if math.isinf(asks_usd):
            return f"nobody knows what {_may_cost(run)}, and {limit}"
        return f"{_may_cost(run)} {dollars(asks_usd)}, and {limit}"


def _under(run: RunRecord, cap_usd: float | None) -> RunRecord:
    """Return a run with another cap."""
    return replace(run, request=replace(run.request, max_cost_usd=cap_usd))


def waiting(run: RunRecord, leave: Leave, asks_usd: float, now: float) -> RunRecord:
    """Return a run that waits for leave: stopped before anything was sent."""
    fault = f"not submitted yet: {leave.why(run, asks_usd)}"
    return replace(run, ending=Ending.STOPPED, ended_at=now, fault=fault, asks_usd=asks_usd)


def check_leave(s: Snapshot) -> None:
    """Refuse what is done to a run that waits for leave. Raises CellError."""
    if s.asks_usd is not None:
        raise CellError(f"{s.name} is not submitted yet; `%gptbatch submit {s.name}` gives leave")


def refusal(run: RunRecord, *, is_sample: bool = False) -> str | None:
    """Say why a run is not submitted: it may cost more than its cap, or nobody knows what.

    Of a sample, which is there to find out, what is not bounded counts at its lower end.
    """
    cap = run.request.max_cost_usd
    if cap is None or math.isinf(cap) or not _may_send(run):
        return None
    span = may_come_to(run, is_sample=is_sample)
    if span is None:
        return (
            f"the price of {run.request.model} in this lane is not known, so --max-cost cannot be"
            " kept; set %config GPTBatch.prices, or say --max-cost any"
        )
    if span.high is None:
        return (
            f"nothing bounds the answers, so --max-cost cannot be kept; {_way_to_bound(run)},"
            " or say --max-cost any"
        )
    if span.high > cap:
        return (
            f"{_may_cost(run)} {span_of_dollars(span.low, span.high)}, --max-cost is"
            f" {dollars(cap)}; raise it, take fewer rows, or {_way_to_bound(run)}"
        )
    return None


def asked_for(run: RunRecord, above_usd: float, *, is_sample: bool = False) -> float | None:
    """Return what a run may cost, if the user wants to be asked first; infinite if not known."""
    is_allowed = run.request.max_cost_usd is not None
    if not above_usd or is_allowed or not _may_send(run):
        return None
    span = may_come_to(run, is_sample=is_sample)
    most = most_usd(span)
    return most if most > above_usd else None


def may_come_to(run: RunRecord, *, is_sample: bool = False) -> Span | None:
    """Return the dollars that a run's estimate comes to in the lane that it takes.

    With a deadline all of it may go live.
    """
    if run.estimate is None:
        return None
    goes_live = run.goes_live_at is not None
    span = run.estimate.usd_of(run.request, live=goes_live)
    if run.estimate.held is not None:  # what its run does not answer is sent by this one
        held = run.estimate.held.usd_of(run.request, live=goes_live)
        span = None if span is None or held is None else span + held
    if is_sample and span is not None and span.high is None:
        return Span(span.low, span.low)
    return span


def _may_send(run: RunRecord) -> bool:
    """Tell whether a run has requests that it may have to pay for."""
    found = run.estimate
    return found is not None and bool(found.requests or (found.held and found.held.requests))


def _may_cost(run: RunRecord) -> str:
    """Begin to say what a run may cost: the sandbox is free and priced for the rehearsal."""
    said = "it may cost (at OpenAI, free here)" if run.backend.is_sandbox else "it may cost"
    is_late = run.goes_live_at is not None and not run.request.live
    return f"{said}, if all of it goes live," if is_late else said


def _enough(asks_usd: float) -> str:
    return "any" if math.isinf(asks_usd) else f"{math.ceil(asks_usd * 100) / 100:.2f}"


_CAPPED_BY: Mapping[Endpoint, str] = {
    Endpoint.RESPONSES: "max_output_tokens",
    Endpoint.COMPLETIONS: "max_tokens",
}


def _way_to_bound(run: RunRecord) -> str:
    if output_cap(run.request.params) is not None:
        return "rehearse with --sample 20"
    name = _CAPPED_BY.get(Endpoint(run.request.endpoint), "max_completion_tokens")
    return f"rehearse with --sample 20, or cap the answers with -p {name}=200"


# -- rows of a run once more ----------------------------------------------------------------


def check_again(
    run: RunRecord,
    s: Snapshot,
    found: Estimate,
    cap_usd: float | None,
    leave: Leave,
    *,
    live: bool,
    by_batch: float = 0.0,
    coming_usd: float = 0.0,
) -> None:
    """Refuse to ask lines of a run once more where that may cost more than it may.

    `found` is the estimate of these lines, of which the share `by_batch` is answered by batch.
    `cap_usd` is the one that is named now, which is leave; else the run's own holds, for all that
    the run has come to cost and by `coming_usd`, what is under way, may come to. Raises CellError.
    """
    cap = run.request.max_cost_usd if cap_usd is None else cap_usd
    spent_usd = ((s.cost.paid_usd if s.cost else 0.0) or 0.0) + coming_usd
    most = most_usd(found.usd_of(run.request, live=live))
    if by_batch:
        most = most * (1 - by_batch) + most_usd(found.batch_usd) * by_batch
    if found.requests and (why := _refusal_again(most, spent_usd, cap, leave.above_usd)):
        raise CellError(f"nothing is asked: {why}; say --max-cost USD, or any, to allow it")


def is_limited(run: RunRecord, cap_usd: float | None, leave: Leave) -> bool:
    """Tell whether there is a limit to what rows of a run may cost once more."""
    cap = run.request.max_cost_usd if cap_usd is None else cap_usd
    return not math.isinf(cap) if cap is not None else bool(leave.above_usd)


def lane_again(run: RunRecord, *, live: bool) -> bool:
    """Tell whether rows of a run that are asked again may go live.

    Once it has ended, what was asked live by hand is over; its deadline begins anew.
    """
    has_ended = run.ending in (Ending.FINISHED, Ending.CANCELLED)
    return live or (replace(run, live_at=None) if has_ended else run).goes_live_at is not None


def most_usd(span: Span | None) -> float:
    """Return the upper end of what something may cost; infinite where nobody knows it."""
    return math.inf if span is None or span.high is None else span.high


def is_more(now: Span | None, told: Span | None) -> bool:
    """Tell whether something may cost more than was told; a price that nobody knew is no limit."""
    return most_usd(now) > most_usd(told) * (1 + 1e-9)  # sums in another order differ by a hair


def upper_words(span: Span | None) -> str:
    """Say the upper end of what something may cost."""
    most = most_usd(span)
    return "price not known" if math.isinf(most) else f"up to {dollars(most)}"


def _refusal_again(
    most: float, spent_usd: float, cap: float | None, above_usd: float
) -> str | None:
    if cap is not None and math.isinf(cap):
        return None
    is_known = not math.isinf(most)
    said = f"it may cost up to {dollars(most)}" if is_known else "nobody knows what it may cost"
    if cap is not None and spent_usd + most > cap:
        before = f", {dollars(spent_usd)} are spent" if spent_usd else ""
        return f"{said}{before}, and --max-cost is {dollars(cap)}"
    if cap is None and above_usd and most > above_usd:
        return f"{said}, and confirm_above_usd is {dollars(above_usd)}"
    return None
