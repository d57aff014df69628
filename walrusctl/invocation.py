"""What was asked for in front of, or behind, a command's name: whose daemon, how long, in which form."""

import os

import click

from walrus_config import paths
from walrus_config.problems import ConfigError
from walrus_protocol.client import Client, Json

QUICK_S = 5
"""How long an answer may take that walrusd has at hand; where it takes longer, something is wrong."""


class Invocation:
    home: str | None = None
    socket: str | None = None
    json: bool = False
    timeout: float | None = None
    when_late: str = ""
    """What to do when no answer has come in time; known once a client is made."""

    def home_path(self) -> str:
        try:
            return paths.home_path(self.home, os.environ)
        except ConfigError as error:
            raise click.UsageError(str(error)) from None

    def client(self, within: float | None = QUICK_S) -> Client:
        """A connection to the daemon; `within`: the seconds for an answer where --timeout says none, None for ever.

        Raises Unreachable.
        """
        self.when_late = (
            "a turn goes on: `walrusctl session attach` shows it"
            if within is None
            else "is walrusd stopped or overloaded? Its log may tell; --timeout waits longer"
        )
        return Client(self._socket_path(), self.timeout or within)

    def call(self, method: str, params: Json | None = None, *, within: float | None = QUICK_S) -> Json:
        """One request on a connection of its own. Raises Unreachable, RequestFailed and TimedOut."""
        with self.client(within) as client:
            return client.call(method, params)

    def _socket_path(self) -> str:
        # A socket that is named needs no home, and there may be none.
        named = bool(self.socket or os.environ.get("WALRUS_SOCKET"))
        home = "" if named else self.home_path()
        try:
            configured = "" if named else paths.configured_socket(home)
            return paths.socket_path(self.socket, os.environ, home, configured=configured)
        except ConfigError as error:
            raise click.UsageError(str(error)) from None


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)
