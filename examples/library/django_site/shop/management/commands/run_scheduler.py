"""The command that runs the scheduler in a process of its own."""

from typing import Any

from django.core.management.base import BaseCommand

from shop.jobs import scheduler


class Command(BaseCommand):  # type: ignore[misc]  # Django brings no types
    """Until SIGINT or SIGTERM; handlers that run then are waited for."""

    help = "Plans the site's jobs and runs them. May be started as often as wanted, also beside the web processes."

    def handle(self, *_arguments: Any, **_options: Any) -> None:  # noqa: ANN401 - as Django has it
        """Run it."""
        self.stdout.write("the scheduler runs")
        self.stdout.flush()
        scheduler.run_forever()
        self.stdout.write("the scheduler has stopped")
