"""Asking around: instances of a service, and streams that capture a subject."""

import asyncio
from typing import Any, Final

import msgspec

from natscron.wire.connection import Connection
from natscron.wire.failures import Message
from natscron.wire.line import Line

__all__ = ["StreamInfo", "find_streams", "ping_service"]

_MAX_ANSWERS: Final = 1_000
_MAX_PAGES: Final = 1_000


class StreamInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that captures a subject."""

    name: str
    subjects: tuple[str, ...]
    no_ack: bool
    """It does not acknowledge: a message to it cannot be known to be stored."""
    leaderless: bool
    """It has no leader at the moment and takes no writes."""
    duplicate_window_s: float
    """How long it remembers message ids."""
    retention: str


async def ping_service(connection: Connection, name: str, *, wait_s: float = 0.5) -> list[dict[str, Any]]:
    """The PING answers of a micro service's instances that come within ``wait_s``; none: nobody is there.

    At most 1,000 are kept. Answers that are not JSON objects are left out.
    """
    found: list[dict[str, Any]] = []
    nobody = asyncio.Event()

    def take(message: Message) -> None:
        if not message.data:
            nobody.set()  # the server says at once that nobody listens
            return
        try:
            answer = msgspec.json.decode(message.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if isinstance(answer, dict) and len(found) < _MAX_ANSWERS:
            found.append(answer)

    inbox = connection.new_inbox()
    subscription = await connection.subscribe(inbox, take)
    try:
        await connection.publish(f"$SRV.PING.{name}", reply=inbox)
        async with asyncio.timeout(wait_s):
            await nobody.wait()
    except TimeoutError:
        pass
    finally:
        await subscription.unsubscribe()
    return found


async def find_streams(line: Line, subject: str = "") -> list[StreamInfo]:
    """The account's streams that capture ``subject`` (may hold wildcards; empty: all streams), by name.

    A stream whose configuration cannot be had at the moment (its nodes are away) is listed as leaderless.
    """
    found: dict[str, StreamInfo] = {}
    for _ in range(_MAX_PAGES):
        request: dict[str, Any] = {"offset": len(found)}
        if subject:
            request["subject"] = subject
        reply = await line.js_request("STREAM.LIST", request)
        streams = reply.get("streams") or []
        for info in streams:
            found[info["config"]["name"]] = _stream_info(info)
        for name in reply.get("missing") or []:
            found[name] = StreamInfo(
                name=name, subjects=(), no_ack=False, leaderless=True, duplicate_window_s=0.0, retention=""
            )
        if not streams or len(found) >= int(reply.get("total", 0)):
            break
    return [found[name] for name in sorted(found)]


def _stream_info(info: dict[str, Any]) -> StreamInfo:
    config = info["config"]
    cluster = info.get("cluster")
    return StreamInfo(
        name=config["name"],
        subjects=tuple(config.get("subjects") or ()),
        no_ack=bool(config.get("no_ack", False)),
        leaderless=cluster is not None and bool(cluster) and not cluster.get("leader"),
        duplicate_window_s=config.get("duplicate_window", 0) / 1e9,
        retention=str(config.get("retention", "")),
    )
