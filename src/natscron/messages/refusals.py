"""JetStream's error numbers as errors that say what to do."""

from collections.abc import Callable
from typing import Final

from natscron.errors import (
    ConfigError,
    InvalidCronExpressionError,
    InvalidIntervalError,
    InvalidSubjectError,
    LimitExceededError,
    NatscronError,
    StorageUnavailableError,
    ValidationError,
)
from natscron.wire.failures import ApiError, NoRespondersError
from natscron.wire.kv import is_wrong_sequence

__all__ = ["is_wrong_sequence", "refusal"]

_TEXTS: Final[dict[int, tuple[Callable[[str], NatscronError], str]]] = {
    10054: (LimitExceededError, "the message is larger than the stream or the server takes"),
    10060: (ConfigError, "another stream than {stream} holds the subject {subject}; see check_stream()"),
    10097: (LimitExceededError, "the headers are longer than the 64 KiB that the server takes"),
    10109: (ConfigError, "stream {stream} is sealed: it takes no messages"),
    10165: (InvalidIntervalError, "the time to live is not one that the server takes"),
    10166: (ConfigError, "stream {stream} has no allow_msg_ttl, so ttl= cannot be honoured; see ensure_stream()"),
    10188: (
        ConfigError,
        (
            "stream {stream} has no allow_msg_schedules; ensure_stream(enable=True) turns it on, and it cannot be "
            "turned off again"
        ),
    ),
    10189: (
        InvalidCronExpressionError,
        (
            "the server does not take the schedule: it wants six cron fields, the seconds first, an interval of at "
            "least 1s, or an instant with an offset"
        ),
    ),
    10190: (
        InvalidSubjectError,
        (
            "the target is not among the subjects of stream {stream}; the server publishes into the schedule's own "
            "stream only"
        ),
    ),
    10191: (InvalidIntervalError, "the ttl is not one that the server takes: whole seconds, at least 1s"),
    10192: (ValidationError, "the rollup is not one that the server takes: it knows that of the target's subject only"),
    10203: (
        InvalidSubjectError,
        "the source is not among the subjects of stream {stream}, holds a wildcard, or is the target itself",
    ),
    10212: (
        ValidationError,
        "what stands on the subject to be cancelled is not a schedule",
    ),
    10223: (InvalidCronExpressionError, "the server does not know the time zone: its host may lack the zone data"),
}


def refusal(error: Exception, stream: str, subject: str) -> Exception:
    """The error to raise instead of what the wire raised, for a message on ``subject``; the same where none is better.

    The server's own words and number stand at the end.
    """
    better: Exception
    if isinstance(error, NoRespondersError):
        better = StorageUnavailableError(
            f"nobody takes {subject}: stream {stream} has no leader at the moment, or no such subject; "
            "see check_stream()"
        )
    elif isinstance(error, ApiError) and error.err_code in _TEXTS:
        kind, text = _TEXTS[error.err_code]
        better = kind(f"{text.format(stream=stream, subject=subject)} ({error.description}, {error.err_code})")
    else:
        return error
    return better
