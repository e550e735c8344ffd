"""What an edit does to the fields that the store owns."""

from typing import Final

import msgspec

from natscron.errors import ValidationError
from natscron.model import Job, Mark, Stamp, Version

__all__ = ["MAX_PREVIOUS", "successor"]

MAX_PREVIOUS: Final = 32
"""How many earlier schedules a row keeps while no leader has planned past them."""


def successor(old: Job, new: Job, mark: Mark | None = None) -> Job:
    """``new`` with the store's fields filled in for writing it over the stored ``old``.

    Generation, creation and anchor are copied. If the schedule or ``paused`` changed, ``counts_from`` is left empty
    (the reader takes it from this very write) and the old version joins ``previous``, so that a slot due before the
    edit still runs; else both are copied. Versions whose end the mark has passed are dropped. Raises ValidationError
    when more than :data:`MAX_PREVIOUS` would have to be kept.
    """
    # A row that could not be honoured has planned nothing that anybody would have to finish.
    if old.invalid is not None:
        return msgspec.structs.replace(new, **_owned(old), counts_from=Stamp(), previous=())
    previous = _pending(old, mark)
    if old.schedule == new.schedule and old.paused == new.paused:
        return msgspec.structs.replace(new, **_owned(old), counts_from=old.counts_from, previous=previous)
    in_force = Version(schedule=None if old.paused else old.schedule, since=old.counts_from)
    previous = (*previous, in_force)
    if len(previous) > MAX_PREVIOUS:
        raise ValidationError(
            f"job {old.id!r} has {MAX_PREVIOUS} earlier schedules that no leader has planned past: "
            "no leader is planning, so its schedule cannot be changed again now"
        )
    return msgspec.structs.replace(new, **_owned(old), counts_from=Stamp(), previous=previous)


def _owned(old: Job) -> dict[str, int]:
    return {
        "generation": old.generation,
        "revision": old.revision,
        "created_at_ms": old.created_at_ms,
        "updated_at_ms": old.updated_at_ms,
        "anchor_ms": old.anchor_ms,
    }


def _pending(old: Job, mark: Mark | None) -> tuple[Version, ...]:
    if mark is None or not old.previous:
        return old.previous
    # Each version ends where the next begins, the last one where the present schedule begins.
    ends = [*(version.since for version in old.previous[1:]), old.counts_from]
    return tuple(
        version
        for version, end in zip(old.previous, ends, strict=True)
        if not (mark.instant_ms >= end.at_ms and mark.jobs_seq >= end.seq)
    )
