"""Payloads as the table of jobs keeps them: an object or a list as its JSON text, which takes a fraction of the memory.

A million jobs lie in memory, and few of them run at a time. Everything in this package and above takes a payload in
either form; :func:`unpacked` gives the value.
"""

from typing import Any

import msgspec

from natscron.model import Job

__all__ = ["Packed", "packed", "unpacked"]


class Packed(bytes):
    """The JSON text of an object or a list."""

    __slots__ = ()


def packed(job: Job) -> Job:
    """The same job with its payload packed, if that is smaller."""
    payload = job.payload
    if type(payload) is not dict and type(payload) is not list:
        return job
    try:
        text = Packed(msgspec.json.encode(payload))
    except (msgspec.MsgspecError, OverflowError, ValueError, TypeError, RecursionError):
        return job  # integers over 64 bits, say
    return msgspec.structs.replace(job, payload=text)


def unpacked(payload: Any) -> Any:  # noqa: ANN401 - any JSON value
    """The value of a payload, as it was given; of a packed one a new value at each call."""
    return msgspec.json.decode(payload) if type(payload) is Packed else payload
