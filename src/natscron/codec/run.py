"""A run or range record as the JSON of the API, the CLI, the log stream and the library."""

from typing import Final

import msgspec

from natscron.codec.times import ms_to_text, text_to_ms
from natscron.errors import MalformedInputError, NatscronError
from natscron.model import Delivery, Ms, Run, RunStatus, Trigger

__all__ = ["decode_run", "encode_run", "run_to_json"]


class _Record(msgspec.Struct, omit_defaults=True):
    """Field order is the order in the JSON; what is None is left out."""

    run_id: str | None = None
    job: str = ""
    scheduled_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    status: RunStatus | None = None
    reason: str | None = None
    attempt: int | None = None
    trigger: Trigger | None = None
    delivery: Delivery | None = None
    lateness_ms: Ms | None = None
    duration_ms: Ms | None = None
    instance: str | None = None
    error: str | None = None
    result: str | None = None
    from_: str | None = msgspec.field(default=None, name="from")
    to: str | None = None
    count: int | None = None


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(_Record)


def _record(run: Run) -> _Record:
    return _Record(
        run.run_id,
        run.job,
        _text(run.scheduled_at_ms),
        _text(run.started_at_ms),
        _text(run.finished_at_ms),
        run.status,
        run.reason,
        run.attempt,
        run.trigger,
        run.delivery,
        run.lateness_ms,
        run.duration_ms,
        run.instance,
        run.error,
        run.result,
        _text(run.from_ms),
        _text(run.to_ms),
        run.count,
    )


def encode_run(run: Run) -> bytes:
    """The record as compact JSON; instants in RFC 3339 with milliseconds and Z."""
    return _encoder.encode(_record(run))


def run_to_json(run: Run) -> dict[str, object]:
    """The record as a mapping with the same names."""
    found: dict[str, object] = msgspec.to_builtins(_record(run))
    return found


def decode_run(data: bytes) -> Run:
    """The record in ``data``; fields that this version does not know are ignored. Raises MalformedInputError."""
    try:
        found = _decoder.decode(data)
        if found.status is None or not found.job:
            raise MalformedInputError("not a run record: job or status is missing")
        return Run(
            job=found.job,
            status=found.status,
            run_id=found.run_id,
            scheduled_at_ms=_ms(found.scheduled_at),
            started_at_ms=_ms(found.started_at),
            finished_at_ms=_ms(found.finished_at),
            reason=found.reason,
            attempt=found.attempt or 1,
            trigger=found.trigger or Trigger.SCHEDULE,
            delivery=found.delivery,
            lateness_ms=found.lateness_ms,
            duration_ms=found.duration_ms,
            instance=found.instance or "",
            error=found.error,
            result=found.result,
            from_ms=_ms(found.from_),
            to_ms=_ms(found.to),
            count=found.count,
        )
    except (msgspec.MsgspecError, ValueError, RecursionError, NatscronError) as error:
        raise MalformedInputError(f"not a run record: {error}") from None


def _text(instant_ms: Ms | None) -> str | None:
    return None if instant_ms is None else ms_to_text(instant_ms)


def _ms(text: str | None) -> Ms | None:
    return None if text is None else text_to_ms(text)
