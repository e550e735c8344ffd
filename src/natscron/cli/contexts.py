"""Reads the connection contexts of natscli, so that one set of them serves both tools."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from natscron.cli.client import JSON_ERRORS
from natscron.errors import ConfigError

__all__ = ["SELECTED", "read_context"]

SELECTED: Final = "-"
"""Instead of a name: the context that ``nats context select`` chose."""

_KEYS: Final = {
    "url": "nats.url",
    "user": "nats.user",
    "password": "nats.password",
    "token": "nats.token",
    "creds": "nats.creds",
    "nkey": "nats.nkey",
    "ca": "nats.tls_ca",
    "cert": "nats.tls_cert",
    "key": "nats.tls_key",
}
_UNSUPPORTED: Final = ("nsc", "user_jwt", "user_seed", "socks_proxy", "inbox_prefix", "tls_first")
"""Ignoring one of these would connect as somebody else, elsewhere, or not at all without saying why."""


def read_context(name: str, environ: Mapping[str, str]) -> tuple[dict[str, object], dict[str, str]]:
    """The settings that a context holds, by dotted key, and where each comes from.

    Raises:
        ConfigError: there is no such context, it cannot be read, or it needs something that is not supported.
    """
    folder = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "nats"
    if name == SELECTED:
        selected = folder / "context.txt"
        try:
            name = selected.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"--context {SELECTED}: no context is selected in {selected}; run `nats context select`, or give a name"
            ) from error
    if not name or name in {".", ".."} or "/" in name or os.sep in name:
        raise ConfigError(f"--context {name!r} is not the name of a context; see `nats context ls` for the names")
    path = folder / "context" / f"{name}.json"
    try:
        content = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError as error:
        names = sorted(one.stem for one in path.parent.glob("*.json"))
        near = difflib.get_close_matches(name, names, n=1)
        there = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names) or 'none'}"
        raise ConfigError(f"--context {name}: there is no file {path}; {there}") from error
    except (OSError, *JSON_ERRORS) as error:
        raise ConfigError(f"--context {name}: {path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--context {name}: {path} does not hold a JSON object")
    for key in _UNSUPPORTED:
        if content.get(key):
            raise ConfigError(
                f"--context {name}: {path} uses {key}, which is not supported; give --server and --creds or --nkey"
            )
    found = {target: content[key] for key, target in _KEYS.items() if content.get(key)}
    if "nats.user" in found and "nats.password" not in found:
        # natscli takes a user without a password for a token.
        found["nats.token"] = found.pop("nats.user")
    return found, {_KEYS[key]: f"the context {name} ({path}, key {key})" for key in _KEYS}
