"""Never run, only checked by mypy: the public API as a user's own type checker sees it."""

from typing import Any, assert_type

from nats.aio.client import Client

from natscron.errors import JobNotFoundError, NatscronError
from natscron.server import Server, ServerOptions
from natscron.server.embedded import EmbeddedNats


async def embedding(connection: Client) -> None:
    async with EmbeddedNats() as embedded:
        assert_type(embedded.url, str)

    options = ServerOptions(nats_url="nats://localhost:4222", name="nats-cron", instance_id="a")
    assert_type(ServerOptions(connection=connection), ServerOptions)
    assert_type(ServerOptions.from_env(), ServerOptions)

    server = Server(options)
    await server.start()
    assert_type(server.is_running, bool)
    assert_type(server.is_leader, bool)
    await server.wait()
    await server.stop()

    async with Server() as running:
        assert_type(running, Server)


async def jobs(server: Server) -> None:
    job: dict[str, Any] = {"subject": "demo.tick", "schedule": {"every": "1s"}}
    await server.create_job(job)
    await server.create_job(b'{"subject": "demo.tick", "schedule": {"every": "1s"}}')
    await server.update_job(job)
    await server.put_job(job)
    await server.get_job("demo.tick")
    await server.list_jobs()
    await server.pause_job("demo.tick")
    await server.resume_job("demo.tick")
    await server.trigger_job("demo.tick")
    await server.trigger_job({"subject": "demo.tick", "overlap": "skip"})
    await server.skip_job("demo.tick")
    await server.skip_job({"subject": "demo.tick", "count": 3})
    await server.explain_job("demo.tick")
    await server.report_run({"run_id": "01KAG8T3M0Y3N0F4S8V1XW2QZ7", "job": "demo.tick", "status": "completed"})
    await server.delete_job("demo.tick")
    await server.delete_jobs("demo.>")


async def backfills(server: Server) -> None:
    begun = await server.backfill_job({"subject": "demo.tick", "from": "2027-01-01T00:00:00Z", "rate": "10/s"})
    assert_type(begun, dict[str, Any])
    assert_type(await server.list_backfills(), list[dict[str, Any]])
    await server.cancel_backfill("01KAG8T3M0Y3N0F4S8V1XW2QZ7")


async def calendars(server: Server) -> None:
    await server.put_calendar({"name": "closed", "weekly": [{"days": "SAT,SUN"}]})
    assert_type(await server.get_calendar("closed"), dict[str, Any])
    assert_type(await server.list_calendars(), list[dict[str, Any]])
    await server.delete_calendar("closed")


def errors(error: NatscronError) -> None:
    assert_type(error.code, int)
    assert_type(error.may_have_happened, bool)
    assert_type(error.retry_helps, bool)
    if isinstance(error, JobNotFoundError):
        raise error
