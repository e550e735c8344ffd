"""The storage conformance suite: what every :class:`~natscron.storage.protocol.Storage` has to do, as it has to do it.

Derive from the classes in a test module, and give each a ``storage`` fixture: an initialized storage with nothing in
it, closed by the fixture. :class:`LifecycleChecks` takes ``fresh`` instead, one that was not initialized. The suite
asks :attr:`~natscron.storage.protocol.Storage.capabilities`, never a name::

    class TestMyLife(LifecycleChecks): ...
    class TestMyJobs(JobStoreChecks): ...
    class TestMyCalendars(CalendarChecks): ...
    class TestMyLease(LeaseStoreChecks): ...
    class TestMyRuns(ExecutionStoreChecks): ...

A storage of the library, which has a run queue (:class:`~natscron.storage.queue.QueueStorage`), passes these too::

    class TestMyRuns(SortedHistoryChecks): ...  # instead of ExecutionStoreChecks
    class TestMyQueue(RunQueueChecks): ...

The checks are coroutines: run them with the anyio plugin of pytest, or with any other. They wait for what they expect,
fifteen seconds at the most, and use instants within a few minutes of the store's own clock.
"""

from natscron.testing.conformance.calendars import CalendarChecks
from natscron.testing.conformance.jobs import JobStoreChecks
from natscron.testing.conformance.lease import LeaseStoreChecks
from natscron.testing.conformance.life import LifecycleChecks
from natscron.testing.conformance.queue import RunQueueChecks
from natscron.testing.conformance.runs import ExecutionStoreChecks, SortedHistoryChecks

__all__ = [
    "CalendarChecks",
    "ExecutionStoreChecks",
    "JobStoreChecks",
    "LeaseStoreChecks",
    "LifecycleChecks",
    "RunQueueChecks",
    "SortedHistoryChecks",
]
