"""Job ids as KV keys (and the tail of log subjects), and back.

An id within ``[-/_=.a-zA-Z0-9]`` without an empty token is its own key, as in the Go version. Any other, and one that
begins with ``=b32.`` or ``_`` (reserved), is ``=b32.`` and its UTF-8 in lower-case base 32 without padding.
"""

import base64
import binascii
import re
from typing import Final

__all__ = ["PREFIX", "id_of", "key_of"]

PREFIX: Final = "=b32."
_PLAIN: Final = re.compile(r"(?!_|=b32\.)[-/_=a-zA-Z0-9]+(?:\.[-/_=a-zA-Z0-9]+)*")


def key_of(job_id: str) -> str:
    """The key under which the job ``job_id`` is stored."""
    if _PLAIN.fullmatch(job_id) is not None:
        return job_id
    encoded = base64.b32encode(job_id.encode("utf-8", "surrogatepass")).decode("ascii")
    return PREFIX + encoded.rstrip("=").lower()


def id_of(key: str) -> str:
    """The job id stored under ``key``; a key that :func:`key_of` never gives is its own id."""
    if not key.startswith(PREFIX):
        return key
    text = key[len(PREFIX) :].upper()
    try:
        job_id = base64.b32decode(text + "=" * (-len(text) % 8)).decode()
    except (binascii.Error, ValueError):
        return key
    return job_id if key_of(job_id) == key else key
