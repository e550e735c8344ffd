"""A scheduler in a Flask application.

    pip install flask gunicorn 'natscron[sqlite]'
    JOBS_URL=sqlite:///jobs.db gunicorn --chdir examples/library --workers 4 'flask_app:create_app()'

Each worker process runs a scheduler, and the job set fires once over all of them, because they share the database.
With --preload the application is made in gunicorn's master: the scheduler runs there too, and each worker starts its
own right after it was forked off. With memory:// each process would fire every job.

For a look: python examples/library/flask_app.py PORT
"""

import os
import sys
from typing import Any

from flask import Flask, abort

from natscron import JobEvent, JobNotFoundError
from natscron.sync import Scheduler

scheduler = Scheduler(os.environ.get("JOBS_URL", "sqlite:///jobs.db"))


@scheduler.every(os.environ.get("JOBS_EVERY", "1m"), id="refresh", timeout="30s", retry=3)
def refresh(event: JobEvent) -> str:
    """Run in a thread. A handler that uses the application does it within app.app_context()."""
    print(f"refreshing for {event.scheduled_at:%H:%M:%S}", flush=True)
    return f"by {os.getpid()}"


def create_app() -> Flask:
    """Make the application, and start the scheduler with it; at the end of the process it is stopped."""
    app = Flask(__name__)
    if not scheduler.is_running:
        scheduler.start()

    @app.get("/jobs")
    def list_jobs() -> list[dict[str, Any]]:
        return [{"id": job.id, "status": job.status, "next_run": job.next_run} for job in scheduler.list_jobs()]

    @app.post("/jobs/<identity>/trigger")
    def trigger(identity: str) -> tuple[dict[str, str], int]:
        try:
            return {"run": scheduler.trigger(identity)}, 202
        except JobNotFoundError as error:
            abort(404, str(error))

    @app.get("/jobs/<identity>/runs")
    def runs(identity: str) -> list[dict[str, Any]]:
        found = scheduler.list_runs(identity, limit=20)
        return [{"run": run.run_id, "status": run.status, "result": run.result} for run in found]

    return app


if __name__ == "__main__":
    # The reloader runs the application in two processes; here one is enough.
    create_app().run(port=int(sys.argv[1]), use_reloader=False)
