"""What was asked for in front of, or behind, a command's name: whose daemon, how long, in which form."""

import os

import click

from walrus_config import paths
from walrus_config.problems import ConfigError
from walrus_protocol.client import Client, Json


class Invocation:
    home: str | None = None
    socket: str | None = None
    json: bool = False
    timeout: float | None = None

    def home_path(self) -> str:
        return paths.home_path(self.home, os.environ)

    def client(self) -> Client:
        """A connection to the daemon. Raises Unreachable."""
        return Client(self._socket_path(), self.timeout)

    def call(self, method: str, params: Json | None = None) -> Json:
        """One request on a connection of its own. Raises Unreachable, RequestFailed and TimedOut."""
        with self.client() as client:
            return client.call(method, params)

    def _socket_path(self) -> str:
        home = self.home_path()
        named = bool(self.socket or os.environ.get("WALRUS_SOCKET"))
        try:
            configured = "" if named else paths.configured_socket(home)
            return paths.socket_path(self.socket, os.environ, home, configured=configured)
        except ConfigError as error:
            raise click.UsageError(str(error)) from None


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)
