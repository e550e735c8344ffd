"""A connection taken out of its pool for good.

The pool forgets it, so what is set on it stays, it takes nobody's place, and nobody closes it but its owner. That goes
for one that SQLAlchemy has given up as well (a statement was cancelled, say): it would lie about with its transaction
open. So whoever has one calls :meth:`Apart.close`, or :meth:`Apart.cut` where there is no time.
"""

import asyncio
import logging
from typing import Any, Final, Protocol, runtime_checkable

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["Apart"]

log = logging.getLogger("natscron.storage")

_CLOSE_S: Final = 2.0


class Apart:
    """``connection`` to be used by one at a time."""

    def __init__(self, connection: AsyncConnection, raw: Any) -> None:  # noqa: ANN401 - any driver's connection
        self.connection = connection
        self._raw = raw
        self._ended = False
        self._stopped: asyncio.Future[Any] | None = None

    @classmethod
    async def open(cls, engine: AsyncEngine, **execution_options: Any) -> "Apart":  # noqa: ANN401 - SQLAlchemy's
        """Open one. Raises what the driver raises."""
        connection = await engine.connect()
        try:
            if execution_options:
                await connection.execution_options(**execution_options)
            raw = (await connection.get_raw_connection()).dbapi_connection
            await connection.run_sync(lambda sync: sync.detach())
        except BaseException:
            await connection.close()
            raise
        return cls(connection, raw)

    @property
    def driver(self) -> Any:  # noqa: ANN401 - any driver's connection
        """The driver's own connection."""
        return self._raw.driver_connection

    @property
    def usable(self) -> bool:
        """False: it is closed, or was given up."""
        return not self._ended and not self.connection.closed and not self.connection.invalidated

    def cut(self) -> None:
        """End it at once: the database rolls back what is open. Idempotent."""
        if self._ended:
            return
        self._ended = True
        if isinstance(self.driver, _Stoppable):
            # SQLite's has a thread, which goes on until it comes to this.
            self._stopped = self.driver.stop()
        else:
            self._raw.terminate()

    async def close(self) -> None:
        """Close it. Idempotent; never raises (but for a cancellation, after which it is closed too)."""
        try:
            if self.usable and not self._ended:
                async with asyncio.timeout(_CLOSE_S):
                    await self.connection.close()
                self._ended = True
        except Exception as error:  # noqa: BLE001 - whatever it is, it is cut
            log.debug("a connection could not be closed", extra={"error": type(error).__name__})
        finally:
            self.cut()
            stopped, self._stopped = self._stopped, None
            if stopped is not None:
                # Also by who is cancelled: a thread that answers to a loop that was closed ends with an error.
                await asyncio.wait([stopped], timeout=_CLOSE_S)


@runtime_checkable
class _Stoppable(Protocol):
    def stop(self) -> "asyncio.Future[Any] | None": ...
