"""How to reach NATS: the options as a user gives them, checked, and as the client wants them (:class:`Dial`)."""

import importlib.util
import ssl
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec

from natscron.config import NatsSettings
from natscron.errors import ConfigError

__all__ = ["ConnectOptions", "Dial"]

_SCHEMES: Final = ("nats", "tls", "ws", "wss")
_DEFAULT_PORT: Final = 4222


class Dial:
    """Servers and credentials in the client's own terms. Its ``repr`` shows no secret."""

    __slots__ = ("kwargs", "redacted")

    def __init__(self, kwargs: dict[str, Any], redacted: str) -> None:
        self.kwargs = kwargs
        self.redacted = redacted

    def __repr__(self) -> str:
        return f"Dial({self.redacted})"


class ConnectOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Servers and credentials. Paths are read at every connect, so that rotated files are taken up.

    ``url`` is a comma list of ``nats:// tls:// ws:// wss://`` URLs; ``user:password@`` and ``token@`` may stand in it
    (percent-encoded) and then hold for every server of the cluster. ``creds`` and ``nkey`` are files. Over ``tls://``
    and ``wss://``, or with any ``tls_*`` option, a server that does not offer TLS is refused before credentials leave.
    """

    url: str = "nats://localhost:4222"
    user: str | None = None
    password: str | None = None
    token: str | None = None
    creds: str | None = None
    nkey: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_hostname: str | None = None
    tls_first: bool = False
    """Do the TLS handshake before the server's greeting."""
    name: str = "natscron"
    """Shown in the server's monitoring."""

    @classmethod
    def of(cls, nats: NatsSettings, name: str) -> "ConnectOptions":
        """From the settings; ``name`` where they give none."""
        return cls(
            url=nats.url,
            user=nats.user,
            password=nats.password,
            token=nats.token,
            creds=nats.creds,
            nkey=nats.nkey,
            tls_ca=nats.tls_ca,
            tls_cert=nats.tls_cert,
            tls_key=nats.tls_key,
            name=nats.name or name,
        )

    def __repr__(self) -> str:
        return f"ConnectOptions({self.redacted_url()!r})"

    def redacted_url(self) -> str:
        """The URL list without user names, passwords and tokens; safe for logs."""
        return ",".join(_redact(part) for part in self.url.split(",") if part.strip())

    def dial(self) -> Dial:
        """Check everything that can be checked without the network. Raises ConfigError."""
        urls = [_with_scheme(part.strip()) for part in self.url.split(",") if part.strip()]
        if not urls:
            raise ConfigError("url: empty; give at least one server, like nats://localhost:4222")
        schemes = {_check(url) for url in urls}
        web = schemes & {"ws", "wss"}
        if web and schemes - web:
            raise ConfigError(f"url: {self.redacted_url()} mixes WebSocket and other schemes; use one kind")
        if web and importlib.util.find_spec("aiohttp") is None:
            raise ConfigError("url: WebSocket needs a package that is not installed: pip install 'natscron[ws]'")
        kwargs: dict[str, Any] = {"name": self.name}
        kwargs.update(self._credentials(urls))
        if "servers" not in kwargs:
            kwargs["servers"] = [_strip(url) for url in urls]
        if schemes & {"tls", "wss"} or self.tls_ca or self.tls_cert or self.tls_first or self.tls_hostname:
            kwargs["tls"] = self._tls()
        if self.tls_hostname:
            kwargs["tls_hostname"] = self.tls_hostname
        if self.tls_first:
            kwargs["tls_handshake_first"] = True
        return Dial(kwargs, self.redacted_url())

    def _credentials(self, urls: list[str]) -> dict[str, Any]:
        given: dict[str, Any] = {}
        if self.creds:
            _must_hold(self.creds, "creds", b"BEGIN NATS USER JWT", b"BEGIN USER NKEY SEED")
            given["user_credentials"] = str(Path(self.creds).expanduser())
        elif self.nkey:
            _must_hold(self.nkey, "nkey", b"SU")
            given["nkeys_seed"] = str(Path(self.nkey).expanduser())
        if self.token:
            given["token"] = self.token
        if self.user is not None:
            if self.password is None:
                raise ConfigError("password: missing; user was given")
            given.update(user=self.user, password=self.password)
        if given:
            return given
        # Passed as options and not in the URLs: the client sends a URL's userinfo undecoded, and has none for the
        # servers that the cluster tells it about.
        infos = {urlsplit(url).netloc.rpartition("@")[0] for url in urls} - {""}
        if len(infos) > 1:
            return {"servers": urls}
        for info in infos:
            user, colon, password = info.partition(":")
            return {"user": unquote(user), "password": unquote(password)} if colon else {"token": unquote(user)}
        return {}

    def _tls(self) -> ssl.SSLContext:
        if self.tls_key and not self.tls_cert:
            raise ConfigError("tls_cert: missing; tls_key was given")
        option = "tls_ca"
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
            option = "tls_cert"
            if self.tls_cert:
                context.load_cert_chain(self.tls_cert, self.tls_key)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"{option}: cannot be used: {error}") from error
        return context


def _with_scheme(url: str) -> str:
    return url if "://" in url else f"nats://{url}"


def _redact(url: str) -> str:
    scheme, sep, rest = _with_scheme(url.strip()).partition("://")
    userinfo, at, host = rest.rpartition("@")
    return f"{scheme}{sep}***@{host}" if at and userinfo else f"{scheme}{sep}{host}"


def _strip(url: str) -> str:
    scheme, sep, rest = url.partition("://")
    return f"{scheme}{sep}{rest.rpartition('@')[2]}"


def _check(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"url: {_redact(url)} is not a URL: {error}") from None
    if parts.scheme not in _SCHEMES:
        raise ConfigError(f"url: {_redact(url)} has an unknown scheme; use nats://, tls://, ws:// or wss://")
    if not parts.hostname or port == 0:
        raise ConfigError(f"url: {_redact(url)} names no host, or port 0")
    return parts.scheme


def _must_hold(path: str, option: str, *marks: bytes) -> None:
    try:
        text = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"{option}: {path} cannot be read: {error.strerror}") from error
    if not all(mark in text for mark in marks):
        raise ConfigError(f"{option}: {path} is not such a file")
