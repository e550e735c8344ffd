"""Jobs, lease, journal and history in NATS JetStream; for the library the run queue too."""

import importlib
from typing import TYPE_CHECKING, Any

from natscron.storage.nats.options import NatsStorageOptions
from natscron.storage.nats.storage import NatsStorage
from natscron.wire.options import ConnectOptions

if TYPE_CHECKING:
    from natscron.storage.nats.library import NATSStorage
    from natscron.storage.nats.library_options import LibraryOptions

__all__ = ["ConnectOptions", "LibraryOptions", "NATSStorage", "NatsStorage", "NatsStorageOptions"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the module's names
    if name in __all__:
        home = "library_options" if name == "LibraryOptions" else "library"
        return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
