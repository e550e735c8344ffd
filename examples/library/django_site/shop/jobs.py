"""The site's jobs, and the scheduler that runs them. Importing this starts nothing.

Where it is started is what matters with Django. AppConfig.ready() is the wrong place: it runs in every process that
loads the site, also in `manage.py migrate`, in a shell, and twice under the development server (the reloader and what
it reloads). Here it is started in two places, and one of them is enough:

* shop/wsgi.py, which web processes load and commands do not: each web process is a member;
* `manage.py run_scheduler`, a process of its own, for sites that keep jobs out of their web processes: then leave the
  start in shop/wsgi.py out, or make the web processes' Scheduler with worker=False, plan=False, so that they only add
  and trigger jobs.

However many processes start it, each slot is run once, because they share a database.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.conf import settings
from django.db import close_old_connections, connection

from natscron import JobEvent
from natscron.sync import Scheduler

__all__ = ["scheduler"]

scheduler = Scheduler(settings.JOBS_URL)


def with_database(handler: Callable[[JobEvent], Any]) -> Callable[[JobEvent], Any]:
    """Give a handler's thread what Django gives each request: no connection that died meanwhile, none left open."""

    @wraps(handler)
    def handled(event: JobEvent) -> Any:  # noqa: ANN401 - whatever the handler returns
        close_old_connections()
        try:
            return handler(event)
        finally:
            close_old_connections()

    return handled


@scheduler.every(settings.JOBS_EVERY, id="cleanup", retry=3, timeout="5m")
@with_database
def cleanup(event: JobEvent) -> str:
    """Use the ORM as a view does."""
    tables = len(connection.introspection.table_names())
    print(f"cleanup for {event.scheduled_at:%H:%M:%S}", flush=True)
    return f"{tables} tables"
