"""What a process has that was forked off another: a copy of everything in memory, and none of the threads.

The sockets, the files and the event loop's own descriptors are the parent's. To use one, or only to close it, reaches
into the parent: a selector that forgets a socket in the child forgets it in the parent as well, and a database
connection says goodbye on the parent's line. So all of it is put aside for ever, and the child opens its own.
"""

import contextlib
from typing import Final

__all__ = ["keep_forever"]

_PARENTS: Final[list[object]] = []


def keep_forever(*things: object) -> None:
    """Never let go of these: nothing of them is closed, not even when the interpreter ends."""
    if not _PARENTS:
        with contextlib.suppress(ImportError):
            import ctypes  # noqa: PLC0415 - most processes are no forks

            # A reference that nobody gives back, so that the list outlives its module.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(_PARENTS))
    _PARENTS.append(things)
