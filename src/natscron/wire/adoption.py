"""Using a client that belongs to the host application: reading how it connects, and listening to it."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from nats.aio.client import Client

from natscron.wire.options import Dial

__all__ = ["dial_of", "hook"]

_OPTIONS: Final = ("user", "password", "token", "tls", "tls_hostname", "tls_handshake_first", "ws_connection_headers")
_FIELDS: Final = {
    "_signature_cb": "signature_cb",
    "_user_jwt_cb": "user_jwt_cb",
    "_user_credentials": "user_credentials",
    "_nkeys_seed": "nkeys_seed",
    "_nkeys_seed_str": "nkeys_seed_str",
}


def dial_of(client: Client) -> Dial:
    """The client's servers (also those that the cluster told it about) and its credentials."""
    servers = [url.geturl() for url in client.servers]
    kwargs: dict[str, Any] = {"servers": servers, "name": client.options.get("name")}
    for option in _OPTIONS:
        value = client.options.get(option)
        if value:
            kwargs[option] = value
    for field, option in _FIELDS.items():
        value = getattr(client, field, None)
        if value is not None:
            kwargs[option] = value
    if "user_credentials" in kwargs or "nkeys_seed" in kwargs or "nkeys_seed_str" in kwargs:
        # These two were made from the files by the client itself, and are made again.
        kwargs.pop("signature_cb", None)
        kwargs.pop("user_jwt_cb", None)
    kwargs["inbox_prefix"] = bytes(getattr(client, "_inbox_prefix", b"_INBOX"))
    userinfo = next((url for url in client.servers if url.username), None)
    if userinfo is not None and not ("user" in kwargs or "token" in kwargs):
        # Servers that the cluster told about carry no userinfo; the client itself could not get into them.
        if userinfo.password is None:
            kwargs["token"] = userinfo.username
        else:
            kwargs.update(user=userinfo.username, password=userinfo.password)
    redacted = ",".join(f"{url.scheme}://{url.hostname}:{url.port}" for url in client.servers)
    return Dial(kwargs, redacted)


def hook(
    client: Client, down: Callable[[str], None], up: Callable[[], None], closed: Callable[[], None]
) -> Callable[[], None]:
    """Call these besides the client's own callbacks; the result takes them away again."""
    before = (client._disconnected_cb, client._reconnected_cb, client._closed_cb)  # noqa: SLF001 - set at connect only

    def beside(own: Callable[[], Awaitable[None]] | None, ours: Callable[[], None]) -> Callable[[], Awaitable[None]]:
        async def both() -> None:
            ours()
            if own is not None:
                await own()

        return both

    mine = (beside(before[0], lambda: down("disconnected")), beside(before[1], up), beside(before[2], closed))
    client._disconnected_cb, client._reconnected_cb, client._closed_cb = mine  # noqa: SLF001 - see above

    def restore() -> None:
        # Somebody may have put theirs on top meanwhile: then ours stay, and do nothing after the close.
        if client._disconnected_cb is mine[0]:  # noqa: SLF001 - see above
            client._disconnected_cb = before[0]  # noqa: SLF001 - see above
        if client._reconnected_cb is mine[1]:  # noqa: SLF001 - see above
            client._reconnected_cb = before[1]  # noqa: SLF001 - see above
        if client._closed_cb is mine[2]:  # noqa: SLF001 - see above
            client._closed_cb = before[2]  # noqa: SLF001 - see above

    return restore
