"""The NATS Cron service."""

from natscron.server.app import Server
from natscron.server.options import ServerOptions

__all__ = ["Server", "ServerOptions"]
