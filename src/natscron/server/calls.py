"""Everything that can be asked of a service, put together; the endpoints and the embedding API share it."""

from typing import Final

from natscron.server.backfills import Backfills
from natscron.server.calendars import Calendars
from natscron.server.context import Context
from natscron.server.explain import Explain
from natscron.server.info import Info
from natscron.server.jobs import Jobs
from natscron.server.lookups import Lookups
from natscron.server.policies import Policies
from natscron.server.runs import Runs

__all__ = ["Calls"]


class Calls:
    """The calls by what they are about."""

    def __init__(self, context: Context) -> None:
        self.jobs: Final = Jobs(context)
        self.lookups: Final = Lookups(context)
        self.policies: Final = Policies(context)
        self.runs: Final = Runs(context)
        self.explain: Final = Explain(context)
        self.backfills: Final = Backfills(context)
        self.calendars: Final = Calendars(context)
        self.info: Final = Info(context)
