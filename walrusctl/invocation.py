"""What was asked for in front of, or behind, a command's name: whose daemon, how long, in which form."""

import os

import click

from walrus_config import paths
from walrus_config.problems import ConfigError
from walrus_protocol.client import Client, Json, Unreachable
from walrusctl.output import note

QUICK_S = 5
"""How long an answer may take that walrusd has at hand; where it takes longer, something is wrong."""


class Invocation:
    home: str | None = None
    socket: str | None = None
    json: bool = False
    timeout: float | None = None
    when_late: str = ""
    """What to do when no answer has come in time; known once a client is made."""
    when_gone: str = ""
    """What becomes of what was asked where walrusd goes away before it answers, if a command knows that."""

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
        path = self._socket_path()
        try:
            return Client(path, self.timeout or within)
        except Unreachable as error:
            if self._is_named() or not isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError):
                raise
            self.socket = self._held_elsewhere(path)  # for what is asked next, too
            if self.socket is None:
                raise
        return Client(self.socket, self.timeout or within)

    def call(self, method: str, params: Json | None = None, *, within: float | None = QUICK_S) -> Json:
        """One request on a connection of its own. Raises Unreachable, RequestFailed and TimedOut."""
        with self.client(within) as client:
            return client.call(method, params)

    def how_to_reach(self, error: Unreachable) -> str:
        """What to do: of a walrusd that is this user's service, what the protocol's client cannot know."""
        cause = error.__cause__
        gone = cause is None or isinstance(cause, FileNotFoundError | ConnectionRefusedError)
        was_there = f"{self.when_gone}; " if cause is None and self.when_gone else ""
        if not gone or self._is_named():
            return was_there + error.hint
        from walrusctl import units

        if not units.installed_for(units.folder(os.environ), self.home_path()):
            return was_there + error.hint
        kept = "what it had acknowledged is kept; " if cause is None else ""
        return (
            f"{was_there}{kept}it is a service: `walrusctl service status` tells how it is, `{units.START}` starts it"
        )

    def _is_named(self) -> bool:
        """Whether the socket was said, and does not go by the home."""
        return bool(self.socket or os.environ.get("WALRUS_SOCKET"))

    def _socket_path(self) -> str:
        # A socket that is named needs no home, and there may be none.
        home = "" if self._is_named() else self.home_path()
        try:
            configured = paths.configured_socket(home) if home else ""
            return paths.socket_path(self.socket, os.environ, home, configured=configured)
        except ConfigError as error:
            raise click.UsageError(str(error)) from None

    def _held_elsewhere(self, path: str) -> str | None:
        """Where the walrusd of the home listens though its walrus.toml says `path` by now: it reads that at its start.

        None where it is nowhere else.
        """
        from walrusctl.holder import holder_of

        holder = holder_of(paths.paths(self.home_path()).lock)
        if not holder or holder.socket in ("", path):
            return None
        note(f"walrusd (pid {holder.pid}) listens on {holder.socket}, and moves to {path} when it is restarted")
        return holder.socket


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)
