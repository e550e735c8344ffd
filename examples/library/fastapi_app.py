"""A scheduler in a FastAPI application: it starts and stops with the application.

    pip install fastapi uvicorn 'natscron[sqlite]'
    JOBS_URL=sqlite:///jobs.db uvicorn --app-dir examples/library fastapi_app:app --workers 4

Every worker process of the application runs a scheduler; the job set fires once over all of them, because they share
the database. With memory:// each process would fire every job.
"""

import datetime as dt
import os
import uuid
from typing import Any

from fastapi import FastAPI, HTTPException

from natscron import Job, JobEvent, NatscronError, Scheduler, lifespan, once

scheduler = Scheduler(os.environ.get("JOBS_URL", "sqlite:///jobs.db"))
app = FastAPI(lifespan=lifespan(scheduler))


@scheduler.every(os.environ.get("JOBS_EVERY", "1m"), id="refresh", timeout="30s", retry=3)
async def refresh(event: JobEvent) -> str:
    """Run in the application's own event loop, so the application's clients and pools can be used."""
    print(f"refreshing for {event.scheduled_at:%H:%M:%S}", flush=True)
    return "fresh"


@scheduler.handler("mail")
async def mail(event: JobEvent) -> str:
    """Send what a request asked for, in whichever process is free."""
    return f"sent to {event.payload['to']}"


@app.get("/jobs")
async def list_jobs() -> list[dict[str, Any]]:
    """All jobs, whichever process made them."""
    return [shown(job) for job in await scheduler.list_jobs()]


@app.post("/mails", status_code=202)
async def send_later(to: str, seconds: float = 0) -> dict[str, str]:
    """Have a mail sent once, after the answer to this request."""
    identity = f"mail-{uuid.uuid4()}"
    at = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
    await scheduler.add_job(identity, once(at), handler="mail", payload={"to": to})
    return {"job": identity}


@app.post("/jobs/{identity}/trigger", status_code=202)
async def trigger(identity: str) -> dict[str, str]:
    """Run a job now."""
    try:
        return {"run": await scheduler.trigger(identity)}
    except NatscronError as error:
        # The error classes carry the HTTP status that fits.
        raise HTTPException(error.code, str(error)) from error


@app.get("/jobs/{identity}/runs")
async def runs(identity: str) -> list[dict[str, Any]]:
    """The job's newest runs."""
    found = await scheduler.list_runs(identity, limit=20)
    return [{"run": run.run_id, "status": run.status, "result": run.result} for run in found]


@app.get("/health")
async def health() -> dict[str, bool]:
    """For a load balancer: an error unless the scheduler runs and its database answers."""
    try:
        await scheduler.health_check()
    except NatscronError as error:
        raise HTTPException(503, str(error)) from error
    return {"running": scheduler.is_running, "leading": scheduler.is_leader}


def shown(job: Job) -> dict[str, Any]:
    """A job as this application shows it."""
    return {"id": job.id, "status": job.status, "next_run": job.next_run, "last_run": job.last_run}
