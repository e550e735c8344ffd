"""What a stream's configuration does to schedules: nothing, silent losses, or that they cannot work. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from natscron.durations import format_duration
from natscron.wire.levels import Needs, level_of

__all__ = ["StreamReport", "config_problems", "config_warnings", "consumer_findings", "covers", "overlaps", "report"]


class StreamReport(msgspec.Struct, frozen=True, kw_only=True):
    """What ``ensure_stream`` and ``check_stream`` found. It works when there are no problems."""

    stream: str
    created: bool = False
    changed: tuple[str, ...] = ()
    """What was changed in the configuration of a stream that was there."""
    problems: tuple[str, ...] = ()
    """Why schedules cannot work, or would be lost for certain."""
    warnings: tuple[str, ...] = ()
    """What will be lost, and when."""
    server: str = ""
    """The version of the server that leads it."""
    level: int = 0
    """Its API level."""
    recurring: bool = False
    """Whether it can do cron, intervals and sampling, and not only single messages."""

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems


def overlaps(one: str, other: str) -> bool:
    """Whether two subjects or filters have a subject in common."""
    a, b = one.split("."), other.split(".")
    for x, y in zip(a, b, strict=False):
        if ">" in {x, y}:
            return True
        if x != y and "*" not in {x, y}:
            return False
    return len(a) == len(b)


def covers(filters: Iterable[str], subject: str) -> bool:
    """Whether one of the filters takes all that ``subject`` (which may end in ``>``) stands for."""
    return any(_within(one.split("."), subject.split(".")) for one in filters)


def _within(wide: list[str], narrow: list[str]) -> bool:
    for i, token in enumerate(wide):
        if token == ">":  # noqa: S105 - a token of a subject
            return len(narrow) > i
        if i >= len(narrow) or narrow[i] == ">" or (token not in {"*", narrow[i]}):
            return False
    return len(wide) == len(narrow)


def config_problems(config: Mapping[str, Any], prefix: str) -> list[str]:
    """Why schedules cannot work in a stream of this configuration."""
    name = config.get("name", "")
    found = []
    if config.get("mirror"):
        found.append(
            f"stream {name} is a mirror: it takes no messages of its own, and the server refuses schedules in it"
        )
    elif config.get("sources"):
        found.append(f"stream {name} has sources: the server refuses schedules in such streams (10187)")
    elif not config.get("allow_msg_schedules"):
        found.append(
            f"stream {name} has no allow_msg_schedules: every schedule is refused (10188). "
            "ensure_stream(enable=True) turns it on; it cannot be turned off again"
        )
    subjects = config.get("subjects") or []
    if not covers(subjects, f"{prefix}.>"):
        found.append(f"stream {name} does not hold {prefix}.>, where schedules stand; its subjects are {subjects}")
    if config.get("retention") == "interest":
        found.append(
            f"stream {name} keeps messages by interest: a schedule that no consumer asks for is acknowledged and not "
            "stored, and one that a consumer acknowledges is gone before it is due"
        )
    if config.get("no_ack"):
        found.append(f"stream {name} acknowledges nothing (no_ack): whether a schedule was stored cannot be known")
    if config.get("sealed"):
        found.append(f"stream {name} is sealed: it takes no messages")
    if config.get("allow_msg_counter"):
        found.append(f"stream {name} is a counter stream: the server refuses schedules in it (10052)")
    if config.get("subject_transform"):
        found.append(
            f"stream {name} changes the subjects of what it stores (subject_transform): schedules would stand where "
            "nothing finds them again"
        )
    return found


def config_warnings(config: Mapping[str, Any]) -> list[str]:
    """What will be lost in a stream of this configuration, and when."""
    name = config.get("name", "")
    found = []
    if config.get("discard") == "new" and any(config.get(limit, -1) > 0 for limit in ("max_msgs", "max_bytes")):
        found.append(
            f"stream {name} refuses new messages when it is full (discard new): a schedule that is due then fires into "
            "nothing. From nats-server 2.14.6 on the server does not allow this together with schedules"
        )
    else:
        for limit, what in (("max_msgs", "messages"), ("max_bytes", "bytes")):
            if config.get(limit, -1) > 0:
                found.append(
                    f"stream {name} holds at most {config[limit]} {what}: when it is full the oldest go without a "
                    "word, schedules among them, and what they should have sent never comes"
                )
    max_age = int(config.get("max_age") or 0)
    if max_age > 0:
        age = format_duration(max_age, short=True)
        found.append(
            f"stream {name} drops messages after {age}: a schedule further ahead than that never fires, and a "
            f"recurring one ends after {age}"
        )
    if not config.get("allow_msg_ttl"):
        found.append(
            f"stream {name} has no allow_msg_ttl: ttl= is refused (10166), and a cancellation in the very moment of "
            "firing leaves no trace by which a worker could drop the message"
        )
    if config.get("storage") == "memory":
        found.append(f"stream {name} is in memory: a restart of its server (with replicas, of all of them) forgets all")
    if not config.get("allow_direct"):
        found.append(f"stream {name} has no allow_direct: list() reads one schedule at a time, which is slow")
    republish = config.get("republish") or {}
    if republish and not republish.get("src"):
        found.append(
            f"stream {name} republishes everything to {republish.get('dest')}: schedules too, when they are made"
        )
    return found


def consumer_findings(
    config: Mapping[str, Any], consumers: Iterable[Mapping[str, Any]], prefix: str
) -> tuple[list[str], list[str]]:
    """Problems and warnings about consumers that receive schedules. Each item is a consumer's info."""
    problems, warnings = [], []
    for info in consumers:
        its = info.get("config") or {}
        filters = its.get("filter_subjects") or ([its["filter_subject"]] if its.get("filter_subject") else [">"])
        if not any(overlaps(one, f"{prefix}.>") for one in filters):
            continue
        who = f"consumer {info.get('name', '')} of stream {config.get('name', '')} receives the schedules themselves"
        if config.get("retention") == "workqueue":
            problems.append(
                f"{who}, and what it acknowledges is gone: they never fire. Filter it on the targets, not {prefix}.>"
            )
        else:
            warnings.append(f"{who}, at the time they are made: filter it on the targets, not {prefix}.>")
    return problems, warnings


def report(  # noqa: PLR0913 - what it is put together from
    config: Mapping[str, Any],
    consumers: Iterable[Mapping[str, Any]],
    prefix: str,
    *,
    version: str,
    created: bool = False,
    changed: Iterable[str] = (),
) -> StreamReport:
    """All findings. ``version``: that of the connected server, where the stream's leader says none."""
    server = level_of(config, version)
    problems, warnings = consumer_findings(config, consumers, prefix)
    if server.level >= Needs.SINGLE and server.level < Needs.FULL:
        warnings.append(
            f"nats-server {server.version} fires single messages only; cron, intervals, sampling and rollups need "
            "2.14.0"
        )
    return StreamReport(
        stream=str(config.get("name", "")),
        created=created,
        changed=tuple(changed),
        problems=(*config_problems(config, prefix), *problems),
        warnings=(*config_warnings(config), *warnings),
        server=server.version,
        level=server.level,
        recurring=server.level >= Needs.FULL,
    )
