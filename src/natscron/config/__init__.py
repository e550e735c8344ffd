"""Settings: defaults < file < environment < arguments, and every wrong value says where it came from.

The file is TOML with the tables ``[nats] [service] [jobs] [lease] [history] [log]``. The environment reaches every key
as ``NATSCRON_<TABLE>__<KEY>``, and the three names of the Go version, ``NATS_URL``, ``LOG_LEVEL`` and ``INSTANCE_ID``,
are read too (the longer name wins; an empty variable counts as not set). Durations are Go text (``1m30s``) or a number
of seconds; they arrive here as whole milliseconds in the fields ending in ``_ms``, whose keys lack that ending.
"""

from natscron.config.load import load_settings
from natscron.config.settings import (
    DEFAULT_URL,
    HistorySettings,
    JobsSettings,
    LeaseSettings,
    LogSettings,
    NatsSettings,
    ServiceSettings,
    Settings,
    redact_url,
)

__all__ = [
    "DEFAULT_URL",
    "HistorySettings",
    "JobsSettings",
    "LeaseSettings",
    "LogSettings",
    "NatsSettings",
    "ServiceSettings",
    "Settings",
    "load_settings",
    "redact_url",
]
