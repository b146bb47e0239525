"""The nouns: frozen values and enums that every other room speaks in.

It knows the words of the package (run, row, line, shard, job, outcome, snapshot, backend) and
nothing else: no I/O, no clock, no rule. A *row* is known by its position, the 0-based integer
place in the frame at submit; index labels may repeat and are never an identity. The trap is
the two machines of a job: `JobStage` is ours and strict, `remote_status` is the service's word
as it was said, and the one is never read as the other.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum, IntEnum, StrEnum
from typing import Any


class Stage(Enum):
    """Where a run is on its rail; the value is what a person reads."""

    PREPARING = "preparing"  # rows are rendered and written to disk
    UPLOADING = "uploading"  # shards go up, jobs are created
    VALIDATING = "validating"  # the service checks the input files
    IN_PROGRESS = "in progress"  # rows are being answered
    FINALIZING = "finalizing"  # the service writes result files, or winds a cancel up
    COLLECTING = "collecting"  # result files come down and are read
    DONE = "done"  # every row has its outcome


class Ending(Enum):
    """How a run stands once nothing more happens by itself."""

    FINISHED = "finished"  # every row has an outcome
    CANCELLED = "cancelled"  # a cancel was asked for; rows that finished are kept
    STOPPED = "stopped"  # a fault that is the same for all rows; attach goes on


class JobStage(Enum):
    """Our stage of a job: what has been written down as intended or done."""

    PLANNED = "planned"  # the shard is on disk
    UPLOADING = "uploading"  # an upload was intended; the file may or may not be there
    UPLOADED = "uploaded"  # the service has the file
    CREATING = "creating"  # a create was intended; the job may or may not exist
    RUNNING = "running"  # the service has the job
    ENDED = "ended"  # the service is done with it; results are not here yet
    COLLECTED = "collected"  # whatever it gave is on disk and counted


class RowStatus(IntEnum):
    """What became of one row. The number is stored in files, so members keep theirs."""

    OK = 0
    TRUNCATED = 1
    REFUSED = 2
    UNPARSED = 3
    FAILED = 4
    EXPIRED = 5
    CANCELLED = 6
    MISSING = 7
    SKIPPED = 8
    PENDING = 9

    @property
    def label(self) -> str:
        return self.name.lower()


PAID = frozenset({RowStatus.OK, RowStatus.TRUNCATED, RowStatus.REFUSED, RowStatus.UNPARSED})
"""Statuses of rows that were answered and billed: never sent again unless asked for."""

UNANSWERED = frozenset(
    {RowStatus.FAILED, RowStatus.EXPIRED, RowStatus.CANCELLED, RowStatus.MISSING}
)
"""Statuses of rows that were asked for and have no answer: what a new run sends again."""


class Thumb(StrEnum):
    """What a person thinks of a row."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Mark:
    """What a person has noted about a row."""

    thumb: Thumb | None = None
    note: str | None = None


MARK_HALVES = ("thumb", "note")
"""What a mark is made of, each written for itself: it may be another hand's."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Which rows the user wants sent again: all of some statuses, and all of some causes.

    A cause is named by the key that `causes.Cause` has. Nothing wished for is false. Rows of the
    shards `but` are not meant: they were under way when this was wished, or have gone out since, so
    however they come back, nobody has asked for them to be paid once more.
    """

    statuses: frozenset[RowStatus] = frozenset()
    causes: frozenset[str] = frozenset()
    but: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.statuses or self.causes)


Wishes = frozenset[Wish]
NO_WISHES: Wishes = frozenset()


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a prompt that each row fills with its own text: number `n` of the row's values."""

    n: int


@dataclass(frozen=True, slots=True)
class Value:
    """A place that each row fills with JSON of its own: slot `n`, "" where the row has none."""

    n: int


@dataclass(frozen=True, slots=True)
class Parts:
    """A message's content as texts and images: slot `n` holds tuples of `Part` for each row."""

    n: int


Part = tuple[str, str]
"""("text", the text) or ("image", its URL)."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt: constant text and slots, in order; or nothing but its parts."""

    role: str
    pieces: tuple[str | Slot, ...] | tuple[Value] | tuple[Parts]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A few hundred rows of the columns that a template reads.

    `columns` maps a column's name to its `size` values, missing ones as None; a column that is
    only written out may come as UTF-8 in `texts` instead. `index` holds the index labels where
    the template asks for them. Row i is position `start + i`.
    """

    start: int
    size: int
    columns: Mapping[Hashable, Sequence[object]]
    index: Sequence[object] | None = None
    texts: Mapping[Hashable, Sequence[bytes | None]] = field(default_factory=dict)
    places: Sequence[int] | None = None  # in the whole frame, where this is but a sample of it

    def position(self, row: int) -> int:
        """Return the position that a template sees of a row of the chunk."""
        return self.start + row if self.places is None else self.places[row]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A chunk after rendering: `slots[n][i]` is the text of slot n for row `positions[i]`.

    The texts of a slot are all strings, or all UTF-8; those of `Parts` are tuples of parts.
    """

    positions: Sequence[int]
    slots: tuple[Sequence[Any], ...]
    skipped: Sequence[int]  # positions with nothing to send
    missing_values: int  # rows sent with at least one missing value
    unsendable: Sequence[tuple[int, str]] = ()  # positions that fail unsent, and why


@dataclass(frozen=True, slots=True)
class Lines:
    """Request lines, one after another in `data`.

    Line i has `sizes[i]` bytes, newline included, and asks for row `positions[i]`. `digests` holds
    16 bytes for each, one after another: its identity, the hash of all but its custom_id.
    """

    positions: Sequence[int]
    data: bytes
    sizes: Sequence[int]
    digests: bytes


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What a stretch of a result file says, as columns: entry i of each belongs together.

    `text` is the answer (None where there is none), `error` one line on what went wrong (None
    when ok), `offsets` and `lengths` find the raw line in its file, in bytes. A row may occur
    more than once; nothing is resolved here. `foreign` counts lines of other runs' rows,
    `malformed` has the 1-based numbers of lines that are no result line at all.
    """

    positions: Sequence[int]
    statuses: Sequence[int]  # RowStatus values
    text: Sequence[str | None]
    error: Sequence[str | None]
    finish_reason: Sequence[str | None]
    model: Sequence[str | None]
    http_status: Sequence[int | None]  # None where the row had no HTTP answer
    code: Sequence[str | None]  # the service's error code
    usage_input: Sequence[int | None]
    usage_cached: Sequence[int | None]
    usage_output: Sequence[int | None]
    usage_reasoning: Sequence[int | None]
    offsets: Sequence[int]
    lengths: Sequence[int]
    foreign: int = 0
    malformed: Sequence[int] = ()

    @classmethod
    def unsent(cls, positions: Sequence[int], status: RowStatus, said: Sequence[str]) -> Outcomes:
        """Tell of rows that were settled without being sent: nothing but a status and a reason."""
        n = len(positions)
        nothing: list[None] = [None] * n
        given = {"positions": positions, "statuses": [int(status)] * n, "error": said}
        # 400: not to be tried again by itself.
        numbers = {"http_status": [400] * n, "offsets": [0] * n, "lengths": [0] * n}
        names = [one.name for one in fields(cls) if one.default is MISSING]
        return cls(**dict.fromkeys(names, nothing) | given | numbers)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the service counted them."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0

    def beyond(self, other: Usage) -> Usage:
        """Return what is here and not in another count; nothing is less than none."""
        return Usage(
            max(0, self.input - other.input),
            max(0, self.cached - other.cached),
            max(0, self.output - other.output),
            max(0, self.reasoning - other.reasoning),
        )

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input,
            self.cached + other.cached,
            self.output + other.output,
            self.reasoning + other.reasoning,
        )


@dataclass(frozen=True, slots=True)
class Spent:
    """What requests that were answered took: sums over all of them.

    `bytes` are those of their lines; `output_squares` the squares of each answer's tokens.
    """

    requests: int = 0
    bytes: int = 0
    input: int = 0
    output: int = 0
    output_squares: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.requests + other.requests,
            self.bytes + other.bytes,
            self.input + other.input,
            self.output + other.output,
            self.output_squares + other.output_squares,
        )


@dataclass(frozen=True, slots=True)
class Span:
    """From where to where an amount may be; `high` None: nothing bounds it."""

    low: float
    high: float | None

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, _sum(self.high, other.high))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the requests of a run may take, said before they are sent. Tokens and US dollars."""

    requests: int
    input: Span
    basis: str  # what the input rests on
    cached_tokens: int  # of the input, what a cache for prompts may hold
    output: Span
    output_basis: str
    batch_usd: Span | None  # None: a price is not known
    at_once_usd: Span | None
    has_images: bool = False
    held: Estimate | None = None  # of requests that another run has in flight: it may bring none

    def usd_of(self, request: Request, *, live: bool) -> Span | None:
        """Return the dollars in one of a request's lanes; None where a price is not known."""
        return self.at_once_usd if live and request.tier != "flex" else self.batch_usd

    @property
    def saving_usd(self) -> Span | None:
        """US dollars that a batch costs less than the same requests at once."""
        half, full = self.batch_usd, self.at_once_usd
        if half is None or full is None:
            return None
        high = None if full.high is None or half.high is None else full.high - half.high
        return Span(full.low - half.low, high)


@dataclass(frozen=True, slots=True)
class Cost:
    """US dollars of answers: as they are paid, and as they would be at once. None: not known."""

    paid_usd: float | None
    at_once_usd: float | None

    def __add__(self, other: Cost) -> Cost:
        return Cost(_sum(self.paid_usd, other.paid_usd), _sum(self.at_once_usd, other.at_once_usd))


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


OPENAI_URL = "https://api.openai.com/v1"


class Endpoint(StrEnum):
    """Where a request goes: the full path, by the word that a cell says for it."""

    CHAT = "/v1/chat/completions"
    RESPONSES = "/v1/responses"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"
    MODERATIONS = "/v1/moderations"


@dataclass(frozen=True, slots=True)
class Backend:
    """Where jobs run. `name` is what the user typed, `base_url` the identity of the service.

    The sandbox's port changes from life to life, so its identity is its home, not its URL.
    """

    name: str
    base_url: str

    @property
    def is_sandbox(self) -> bool:
        return self.name == "sandbox"

    @property
    def identity(self) -> str:
        return self.name if self.is_sandbox else self.base_url


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of the model for every row: the run's choices, fixed at submit."""

    endpoint: str  # the full path, "/v1/chat/completions"
    model: str  # as it was given: a name, several with commas, or a template
    template: str  # the cell's body as typed
    params: Mapping[str, Any] = field(default_factory=dict)
    extras: Sequence[str] = ()  # names given by --with
    several_models: tuple[str, ...] = ()  # those that each row is asked of, if not of one
    prices: Mapping[str, Any] = field(default_factory=dict)  # the user's own, by model
    fresh: bool = False  # the user wants to pay, whatever was answered before
    live: bool = False  # all rows through the realtime API
    tier: str = ""  # the service tier that the live lane asks for
    deadline_s: float | None = None  # what is left so long after submit is finished live
    max_cost_usd: float | None = None  # more is refused; infinite: anything goes

    @property
    def models(self) -> tuple[str, ...]:
        """The models that each row is asked of; a template stands for the row's own."""
        return self.several_models or (self.model,)


class Kind(Enum):
    """What a column of answers holds; `CHOICE`: one of `Column.choices`, `OBJECT`: all else."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    CHOICE = "choice"
    DATE = "date"
    MOMENT = "moment"
    OBJECT = "object"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of typed answers: its name in the result, and the way to its value."""

    name: str
    kind: Kind
    path: tuple[str, ...]
    choices: tuple[Any, ...] = ()
    is_flat: bool = False  # a list of plain values, as it was decoded


@dataclass(frozen=True, slots=True)
class Shape:
    """What an answer must look like: a JSON Schema as it was meant, or a pattern for its text."""

    schema: Mapping[str, Any] | None = None
    pattern: str | None = None
    name: str = ""  # what the user calls the schema
    prefix: str = ""  # of the columns' names
    flatten: bool = False  # one level of objects within the answer: columns of their own
    has_rules: bool = False  # it was made of a class, whose own validators judge answers too


@dataclass(frozen=True, slots=True)
class Layout:
    """What the result frame looks like: output column, extra columns, clash rule.

    With a `shape` there is a column for each field of the answer, in place of `column`.
    """

    column: str
    keep: tuple[str, ...] = ()
    on_clash: str = "error"
    shape: Shape | None = None
    several: bool = False  # each row of embeddings has a list of inputs, and as many vectors


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a shard may be, how often a row is tried, how long things are waited for."""

    max_rows_per_job: int = 50_000
    # 209,715,200 bytes is the service's limit on an input file; the margin is for our own
    # miscounting, not theirs.
    max_bytes_per_job: int = 209_715_200 - 1_048_576
    max_enqueued_tokens: int = 0  # 0: not known until a refusal says it
    retries: int = 2
    poll_first_s: float = 2.0
    poll_max_s: float = 60.0
    retry_base_s: float = 1.0
    doubt_grace_s: float = 10.0
    collect_timeout_s: float = 120.0
    live_concurrency: int = 16  # rows of a run in flight at once in the live lane


@dataclass(frozen=True, slots=True)
class Shard:
    """The lines of one input file. `held` shards wait for another run's answers and have no job."""

    number: int
    rows: int
    bytes: int
    sha256: str
    round: int = 0
    held: bool = False
    model: str = ""  # all its lines ask; "" in the homes of older versions: the run's


@dataclass(frozen=True, slots=True)
class JobFault:
    """One validation error of a job, as the service gave it. `line` is 1-based."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True)
class RemoteJob:
    """A batch object as the service says it is now, whatever dialect it was said in."""

    batch_id: str
    status: str  # lower case, otherwise as said; "" when not said
    created_at: float | None = None
    expires_at: float | None = None
    in_progress_at: float | None = None
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    total: int | None = None
    completed: int | None = None
    failed: int | None = None
    model: str | None = None
    usage: Usage | None = None  # as it was billed: also of answers that are in no file
    faults: tuple[JobFault, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def lacks_named_files(self) -> bool:
        """Tell whether it counts rows for which it names no result file."""
        lacks_output = bool(self.completed) and not self.output_file_id
        return lacks_output or (bool(self.failed) and not self.error_file_id)


@dataclass(frozen=True, slots=True)
class Job:
    """One remote batch working on one shard, as the journal has it.

    A live job has no batch: its lines go through the realtime API, and `remote` tells how far it is
    in the words that a batch would have.
    """

    number: int
    shard: int
    round: int
    rows: int
    bytes: int
    stage: JobStage
    token: str  # in the file name and in the metadata: how we know our own again
    due_at: float = 0.0  # nothing is to be done for it before
    tries: int = 0  # failed calls in a row, for the back-off
    attempt: int = 0  # how many jobs had this one's place before it and were replaced
    lags: int = 0  # of these, how many because the service did not find its file
    refusals: int = 0  # of these, how many because of single lines
    file_id: str | None = None
    batch_id: str | None = None
    intended_at: float | None = None  # when the last create was about to be sent
    doubted_at: float | None = None  # since when a create without a receipt is looked for
    remote: RemoteJob | None = None
    changed_at: float | None = None  # when the service's status last changed, by our clock
    began_at: float | None = None  # when we first saw it at work, by our clock
    ended_at: float | None = None  # when we first saw it ended, by our clock
    cancel_sent_at: float | None = None
    counts: Mapping[RowStatus, int] = field(default_factory=dict)  # after collecting
    retryable: int = 0  # of these, rows that may be sent again by themselves
    usage: Usage | None = None  # after collecting
    cost: Cost | None = None  # after collecting: of the rows whose tokens are known
    spent: Spent | None = None  # after collecting: the same rows' tokens, for later estimates
    model: str | None = None  # after collecting: who answered, in the answers' own words
    problem: str | None = None  # what went wrong last, in one line
    is_too_large: bool = False  # its file was refused for its size: to be cut
    is_refetched: bool = False  # its result files were asked for once more, and have not come
    polled_at: float | None = None  # when the service last said how it is, by our clock
    is_replaced: bool = False  # another job has taken its place: it has no rows of its own
    is_live: bool = False  # through the live lane

    @property
    def remote_status(self) -> str:
        """The service's own word for the job's state, "" before there is one."""
        return self.remote.status if self.remote else ""


@dataclass(frozen=True, slots=True)
class Point:
    """How many rows of a run were done at an instant (Unix seconds): answered, or settled else."""

    at: float
    rows: int


@dataclass(frozen=True, slots=True)
class Pause:
    """When a run lay idle: from an end, or a stop with nothing at the service, until it went on."""

    begins: float
    ends: float


LIVE_FILE = "live"
"""What stands for the id of a live job's result file, which no service has."""


def result_files(job: Job) -> list[tuple[str, str]]:
    """Return the result files that the service has named for a job: (kind, file id)."""
    remote = job.remote
    ids = {"output": remote.output_file_id, "error": remote.error_file_id} if remote else {}
    return [(kind, file_id) for kind, file_id in ids.items() if file_id]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as the journal has it: all that is needed to go on with it, by whoever comes next."""

    run_id: str
    name: str  # the variable that receives the result
    backend: Backend
    request: Request
    layout: Layout
    limits: Limits
    created_at: float
    rows: int  # answers to be had: the frame's rows, times the models that each is asked of
    identity: str  # same cell, same rows, same order: hash over lines, frame and layout
    fingerprint: str  # recognises the live frame again
    unstored: tuple[str, ...] = ()  # columns that the frame snapshot could not hold
    decided: Mapping[RowStatus, int] = field(default_factory=dict)  # rows settled without a job
    twins: int = 0  # rows that share another row's line
    notes: tuple[str, ...] = ()
    estimate: Estimate | None = None
    asks_usd: float | None = None  # it waits for the user's word to spend as much as this
    lenders: tuple[str, ...] = ()  # runs in flight that answer some of the rows
    shards: tuple[Shard, ...] = ()
    jobs: tuple[Job, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of other files, by name
    wishes: Wishes = NO_WISHES  # rows that the user wants sent again and that are not yet
    cancel_at: float | None = None
    live_at: float | None = None  # when the user asked for the rest to be finished live
    deadline_from: float | None = None  # when leave was given, or rows were asked for again
    resumed_at: float | None = None  # when it last went on after a stop
    ending: Ending | None = None
    ended_at: float | None = None
    fault: str | None = None
    counts: Mapping[RowStatus, int] = field(default_factory=dict)  # every row, once ended
    model_served: str | None = None
    saved: Mapping[str, float] = field(default_factory=dict)  # dollars not paid, by why; once ended
    progress: tuple[Point, ...] = ()  # a few dozen, in order of time
    pauses: tuple[Pause, ...] = ()  # in order of time
    notebook: str = ""  # where it was submitted, as the journal's folder sees it; "": not known

    @property
    def round(self) -> int:
        return max((job.round for job in self.jobs), default=0)

    @property
    def under_way(self) -> frozenset[int]:
        """The shards whose lines are being asked, or are held for what another run is answered."""
        held = [one.number for one in self.shards if one.held] if self.lenders else []
        asked = [job.shard for job in self.jobs if job.stage is not JobStage.COLLECTED]
        return frozenset((*held, *asked))

    @property
    def goes_live_at(self) -> float | None:
        """From when on rows go through the live lane (Unix seconds); None for never."""
        request = self.request
        if request.live:
            return self.created_at
        wishes = [] if self.live_at is None else [self.live_at]
        if request.deadline_s is not None:
            wishes.append((self.deadline_from or self.created_at) + request.deadline_s)
        return min(wishes, default=None)


@dataclass(frozen=True, slots=True)
class Lease:
    """Who works at a run: one engine of one process, until it expires."""

    owner: str
    pid: int
    host: str
    expires_at: float
    notebook: str = ""  # whose kernel the process is; "": not known


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a job took in earlier runs: the median of `jobs` of them, in seconds."""

    queue_s: float
    work_s: float
    jobs: int


@dataclass(frozen=True, slots=True)
class Preview:
    """One of the newest answers: the row's position, its status, and the beginning of its text.

    `label`: the row's index label, where it says more than the position and the frame is at hand.
    """

    position: int
    status: RowStatus
    text: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A frozen picture of a run at the instant `as_of`. Times are Unix seconds.

    `counts` covers every row: its values add up to `rows`. While jobs run, rows that the
    service says it has done are still `PENDING` here; `claimed_ok` and `claimed_failed` are
    its own words, which are no inventory.
    """

    run_id: str
    name: str
    backend: Backend
    request: Request
    stage: Stage
    as_of: float
    created_at: float
    rows: int
    counts: Mapping[RowStatus, int]
    jobs: tuple[Job, ...] = ()
    prepared: int = 0  # rows rendered so far, while preparing
    claimed_ok: int = 0
    claimed_failed: int = 0
    model_served: str | None = None
    usage: Usage | None = None
    cost: Cost | None = None  # of what has come in; None while nothing has
    ending: Ending | None = None
    ended_at: float | None = None
    fault: str | None = None  # why it stopped; once ended, the commonest error of its rows
    problem: str | None = None  # what is being waited out just now
    notes: tuple[str, ...] = ()  # said once: reuse, duplicates, missing values
    cancelling: bool = False
    round: int = 0
    eta_s: float | None = None
    eta_basis: str = ""  # what it rests on, if not on the run's own pace
    queue_s: float | None = None  # how long its batches were queued, and are, until one began
    work_s: float | None = None  # since then
    wake_at: float | None = None  # when the engine looks again
    lenders: tuple[str, ...] = ()  # runs whose answers it waits for
    goes_live_at: float | None = None  # from when on its rows go through the live lane
    estimate: Estimate | None = None
    asks_usd: float | None = None  # it waits for the user's word to spend as much as this
    saved: Mapping[str, float] = field(default_factory=dict)  # dollars not paid, by why; once ended
    newest: tuple[Preview, ...] = ()  # the answers that came in last, while others are to come
    complaint: str | None = None  # the commonest error so far, while it goes on
    progress: tuple[Point, ...] = ()  # since it began, or last went on
    pauses: tuple[Pause, ...] = ()  # when it lay idle before it went on
    is_driven_elsewhere: bool = False  # another kernel works at it; this one looks on
    notebook: str = ""  # where it was submitted; "": not known

    @property
    def is_ended(self) -> bool:
        return self.ending is not None
