"""A scheduler in a FastAPI application: it starts and stops with the application.

    pip install fastapi uvicorn
    NATS_URL=nats://localhost:4222 uvicorn --app-dir examples/embedded fastapi_app:app --workers 4

Every worker process of the application runs an instance; one of them leads, and any of them answers.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request

from natscron.errors import NatscronError
from natscron.server import Server, ServerOptions


@asynccontextmanager
async def lifespan(application: FastAPI) -> AsyncIterator[None]:
    """Run the server as long as the application."""
    async with Server(ServerOptions.from_env()) as server:
        application.state.cron = server
        yield


app = FastAPI(lifespan=lifespan)


@app.put("/jobs")
async def put_job(job: dict[str, Any], request: Request) -> dict[str, Any]:
    """Create or replace a job."""
    server: Server = request.app.state.cron
    try:
        return dict(await server.put_job(job))
    except NatscronError as error:
        # The error classes carry the HTTP status that fits.
        raise HTTPException(error.code, str(error)) from error


@app.get("/jobs/{subject}")
async def get_job(subject: str, request: Request) -> dict[str, Any]:
    """One job with its next run."""
    server: Server = request.app.state.cron
    try:
        return dict(await server.get_job(subject))
    except NatscronError as error:
        raise HTTPException(error.code, str(error)) from error


@app.get("/health")
async def health(request: Request) -> dict[str, bool]:
    """Whether this instance runs, and whether it leads."""
    server: Server = request.app.state.cron
    return {"running": server.is_running, "leading": server.is_leader}
