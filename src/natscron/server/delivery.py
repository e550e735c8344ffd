"""What a run becomes on the wire: message bytes per job, and what the answers mean.

:class:`SubjectTarget` is the engine's target for subjects. It does no I/O. Which streams capture which subjects is
read from :class:`StreamMap`, a copy in memory that :mod:`natscron.server.streams` keeps fresh, so that
resolving ``auto`` never waits.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal

import msgspec

from natscron.codec import check_headers
from natscron.codec.body import payload_bytes
from natscron.codec.times import ms_to_text
from natscron.engine.target import Dispatch, Outcome, Refusal, Target
from natscron.errors import NatscronError
from natscron.model import Delivery, Job, Reason, RunStatus
from natscron.server.subjects import SubjectPolicy, matcher
from natscron.storage.protocol import Outgoing, Reply

__all__ = ["MAX_RESULT_CHARS", "CapturingStream", "StreamMap", "SubjectTarget", "bounded"]

MAX_RESULT_CHARS: Final = 1024
"""Most characters of a worker's reply or error that a run record keeps."""
_MEMO_LIMIT: Final = 200_000
_SERVER_ERROR: Final = 500
_NO_RESPONDERS: Final = "503"


class CapturingStream(msgspec.Struct, frozen=True):
    """One stream of the account: its name, the subjects it stores, and whether it stores without acknowledging."""

    name: str
    subjects: tuple[str, ...]
    no_ack: bool = False


class StreamMap:
    """Which stream captures a subject. Filled by :meth:`replace`, read without waiting.

    A stream that is without a leader stays in here: its absence would turn lossless delivery into core delivery.
    """

    def __init__(self) -> None:
        self.streams: tuple[CapturingStream, ...] = ()
        self.known = False
        """Whether it was ever filled."""
        self._exact: dict[str, CapturingStream] = {}
        self._patterns: list[tuple[Callable[[str], bool], CapturingStream]] = []
        self._memo: dict[str, CapturingStream | None] = {}

    def replace(self, streams: Iterable[CapturingStream]) -> bool:
        """Take the account's streams as they are now; True if that changed anything."""
        fresh = tuple(sorted(streams, key=lambda one: one.name))
        self.known = True
        if fresh == self.streams:
            return False
        self.streams = fresh
        self._exact = {}
        self._patterns = []
        self._memo = {}
        for stream in fresh:
            for subject in stream.subjects:
                if "*" in subject or ">" in subject:
                    # The service's own buckets and other streams of the system; no job may publish there.
                    if not subject.startswith("$"):
                        self._patterns.append((_matcher(subject), stream))
                else:
                    self._exact[subject] = stream
        return True

    def capturing(self, subject: str) -> CapturingStream | None:
        """The stream that stores what is published to ``subject``, or None. Remembered until the streams change."""
        memo = self._memo
        try:
            return memo[subject]
        except KeyError:
            found = self._exact.get(subject)
            if found is None:
                found = next((stream for hit, stream in self._patterns if hit(subject)), None)
            if len(memo) >= _MEMO_LIMIT:
                memo.clear()
            memo[subject] = found
            return found

    def resolve(self, subject: str) -> Literal[Delivery.CORE, Delivery.JETSTREAM]:
        """What ``auto`` comes to for ``subject``: JETSTREAM where a stream captures and acknowledges it, else CORE."""
        stream = self.capturing(subject)
        return Delivery.CORE if stream is None or stream.no_ack else Delivery.JETSTREAM


def _matcher(pattern: str) -> Callable[[str], bool]:
    try:
        return matcher(pattern)
    except NatscronError:
        # The server takes stream subjects that the policy for patterns refuses (te*, say): there it is literal.
        return pattern.__eq__


class _Parts(msgspec.Struct):
    """What stays the same from run to run of one job revision."""

    job: Job
    refusal: Refusal | None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    """None: the body is the run id."""


class SubjectTarget(Target):
    """Publishes a job's runs to the subject that is its id."""

    def __init__(self, policy: SubjectPolicy, streams: StreamMap) -> None:
        self._policy = policy
        self._streams = streams
        self._parts: dict[str, _Parts] = {}
        # Bursts share one slot: its text is made once.
        self._slot_ms = -1
        self._slot_text = ""

    def forget(self, job_id: str) -> None:
        """Drop what is kept for a job that is gone."""
        self._parts.pop(job_id, None)

    def delivery_of(self, job: Job) -> Delivery:
        """The job's own delivery, or what ``auto`` comes to by the streams known now."""
        return self._streams.resolve(job.id) if job.delivery is Delivery.AUTO else job.delivery

    def admits(self, job: Job) -> str | None:
        """Why the job's subject is not allowed, None if it is."""
        return self._policy.refusal(job.id)

    def encode(self, job: Job, dispatch: Dispatch, delivery: Delivery) -> Outgoing | Refusal:
        """The message, or why there is none. Costs a few microseconds once the job's parts are kept."""
        parts = self._parts.get(job.id)
        if parts is None or parts.job is not job:
            parts = self._parts[job.id] = self._prepare(job)
        if parts.refusal is not None:
            return parts.refusal
        run_id = dispatch.run_id
        payload = dispatch.payload
        if payload is not msgspec.UNSET:
            try:
                body = payload_bytes(payload) or run_id.encode()
            except (NatscronError, RecursionError) as error:
                return Refusal(Reason.INVALID_JOB, f"the payload of the trigger cannot be sent: {error}")
        else:
            body = parts.body if parts.body is not None else run_id.encode()
        if dispatch.scheduled_at_ms != self._slot_ms:
            self._slot_text = ms_to_text(dispatch.scheduled_at_ms)
            self._slot_ms = dispatch.scheduled_at_ms
        headers = (
            ("Nats-Msg-Id", run_id if dispatch.message == 1 else f"{run_id}.{dispatch.message}"),
            ("Nats-Cron-Job", job.id),
            ("Nats-Cron-Run", run_id),
            ("Nats-Cron-Scheduled-At", self._slot_text),
            ("Nats-Cron-Attempt", str(dispatch.attempt)),
            *parts.headers,
        )
        if dispatch.replaces:
            headers = (*headers, ("Nats-Cron-Replaces", dispatch.replaces))
        return Outgoing(job.id, headers, body, "" if delivery is Delivery.CORE else f"{run_id}.{dispatch.attempt}")

    def judge(self, delivery: Delivery, reply: Reply) -> Outcome:
        """What a stream's acknowledgement or a worker's reply means."""
        if reply.status == _NO_RESPONDERS:
            return _NOBODY[delivery is Delivery.JETSTREAM]
        if delivery is Delivery.JETSTREAM:
            return _judge_ack(reply.data)
        return _judge_answer(reply)

    def _prepare(self, job: Job) -> _Parts:
        if job.invalid is not None:
            return _Parts(job, Refusal(Reason.INVALID_JOB, job.invalid))
        if (why := self._policy.refusal(job.id)) is not None:
            return _Parts(job, Refusal(Reason.RESERVED_SUBJECT, why))
        try:
            check_headers(job.headers)
            body = payload_bytes(job.payload)
        except (NatscronError, RecursionError) as error:
            return _Parts(job, Refusal(Reason.INVALID_JOB, str(error)))
        # An empty payload stands for the run id, which differs from run to run.
        return _Parts(job, None, tuple(job.headers.items()), body or None)


_NOBODY: Final = {
    True: Outcome(
        RunStatus.FAILED,
        Reason.NO_STREAM,
        "no stream captures the subject, or the one that does has no leader now",
        retry=True,
    ),
    False: Outcome(RunStatus.FAILED, Reason.NO_RESPONDERS, "nobody is subscribed to the subject", retry=True),
}


class _AckError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Ack(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _AckError | None = None


_ack_decoder: Final = msgspec.json.Decoder(_Ack)
_STORED: Final = Outcome(RunStatus.STORED)
_NOT_AN_ACK: Final = (
    "a subscriber answered instead of a stream, so whether it is stored is not known; "
    "use delivery 'request' for workers that answer"
)


def _judge_ack(data: bytes) -> Outcome:
    try:
        ack = _ack_decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return Outcome(RunStatus.FAILED, Reason.STREAM_REFUSED, _NOT_AN_ACK)
    if ack.error is not None:
        text = f"{ack.error.description} (code {ack.error.code}, error {ack.error.err_code})"
        # Full, short of resources, or between leaders: the stream may take it later. The rest is final.
        return Outcome(
            RunStatus.FAILED,
            Reason.STREAM_REFUSED,
            bounded(text),
            retry=ack.error.code >= _SERVER_ERROR,
        )
    if not ack.stream:
        return Outcome(RunStatus.FAILED, Reason.STREAM_REFUSED, _NOT_AN_ACK)
    if ack.duplicate:
        return Outcome(RunStatus.STORED, result="duplicate: the stream had it already")
    return _STORED


def _judge_answer(reply: Reply) -> Outcome:
    text = _text(reply.data)
    code = _header(reply.headers, "nats-service-error-code")
    description = _header(reply.headers, "nats-service-error")
    if code is None and description is None:
        return Outcome(RunStatus.COMPLETED, result=text)
    error = ": ".join(part for part in (code, description) if part)
    return Outcome(
        RunStatus.FAILED,
        Reason.WORKER_ERROR,
        bounded(error or "the worker named no cause"),
        text,
        retry=True,
        code=code,
    )


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return next((value for key, value in headers.items() if key.lower() == name), None)


def _text(data: bytes) -> str | None:
    # Four bytes make at most one character too few; the rest of a large reply is not even decoded.
    return bounded(data[: 4 * MAX_RESULT_CHARS + 4].decode(errors="replace")) if data else None


_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def bounded(text: str) -> str:
    """``text`` as a run record keeps it: at most 1,024 characters, without control characters."""
    text = _CONTROLS.sub("\ufffd", text)
    return text if len(text) <= MAX_RESULT_CHARS else text[: MAX_RESULT_CHARS - 1] + "…"
