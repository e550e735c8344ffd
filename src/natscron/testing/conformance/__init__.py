"""The storage conformance suite: what every :class:`~natscron.storage.protocol.Storage` has to do, as it has to do it.

Derive from the four classes in a test module, and give each a ``storage`` fixture: an initialized storage with nothing
in it, closed by the fixture. The suite asks :attr:`~natscron.storage.protocol.Storage.capabilities`, never a name::

    class TestMyJobs(JobStoreChecks): ...
    class TestMyCalendars(CalendarChecks): ...
    class TestMyLease(LeaseStoreChecks): ...
    class TestMyRuns(ExecutionStoreChecks): ...

The checks are coroutines: run them with the anyio plugin of pytest, or with any other.
"""

from natscron.testing.conformance.calendars import CalendarChecks
from natscron.testing.conformance.jobs import JobStoreChecks
from natscron.testing.conformance.lease import LeaseStoreChecks
from natscron.testing.conformance.runs import ExecutionStoreChecks

__all__ = ["CalendarChecks", "ExecutionStoreChecks", "JobStoreChecks", "LeaseStoreChecks"]
