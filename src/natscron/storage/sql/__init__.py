"""Jobs, leases, run queue and history in a SQL database: SQLite, PostgreSQL, MySQL or MariaDB."""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from natscron.errors import ConfigError

if importlib.util.find_spec("sqlalchemy") is None:
    raise ConfigError(
        "a SQL storage needs SQLAlchemy: pip install 'natscron[sqlite]', 'natscron[postgres]' or 'natscron[mysql]'"
    )

if TYPE_CHECKING:
    from natscron.storage.sql.options import SQLOptions
    from natscron.storage.sql.storage import SQLStorage

__all__ = ["SQLOptions", "SQLStorage"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the module's names
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.{'options' if name == 'SQLOptions' else 'storage'}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
