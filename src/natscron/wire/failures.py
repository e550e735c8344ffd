"""The errors of the wire, as members of the public tree, and the few words shared by every module here."""

from typing import Protocol

from natscron.errors import StorageUnavailableError

__all__ = ["ApiError", "Message", "NoRespondersError", "status_of"]

NO_RESPONDERS = "503"


class NoRespondersError(StorageUnavailableError):
    """Nobody is subscribed to the subject of a request: it was not handled by anyone."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"nobody answers on {subject}")
        self.subject = subject


class ApiError(StorageUnavailableError):
    """JetStream refused: nothing was done. ``err_code`` is its own number (10071: wrong last sequence).

    ``status`` is the HTTP-like number, ``description`` the server's text.
    """

    def __init__(self, status: int, err_code: int, description: str) -> None:
        super().__init__(f"{description} (JetStream {status}/{err_code})")
        self.status = status
        self.err_code = err_code
        self.description = description


class Message(Protocol):
    """A message as it was received. ``headers`` None: it had none. An inline status is in the header ``Status``."""

    @property
    def subject(self) -> str:
        """The subject."""
        ...

    @property
    def reply(self) -> str:
        """Where an answer goes; empty: nowhere."""
        ...

    @property
    def data(self) -> bytes:
        """The body."""
        ...

    @property
    def headers(self) -> dict[str, str] | None:
        """The headers, one value a name."""
        ...


def status_of(message: Message) -> str:
    """The inline status (``"503"``: nobody there), "" for an ordinary message.

    The client folds the status into a header, so an ordinary message could pretend; a status has no body.
    """
    headers = message.headers
    if headers is None or message.data:
        return ""
    return headers.get("Status", "")
