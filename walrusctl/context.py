"""What was asked for in front of, or behind, a command's name: whose daemon, how long, in which form."""

import os

import click

from walrus_config import paths
from walrus_config.errors import ConfigError
from walrus_protocol.client import Client, Json, Unreachable
from walrusctl.output import print_note

DEFAULT_TIMEOUT_S = 5
"""How long an answer may take that walrusd has at hand; where it takes longer, something is wrong."""


class CliContext:
    home: str | None = None
    socket: str | None = None
    json: bool = False
    timeout: float | None = None
    timeout_hint: str = ""
    """What to do when no answer has come in time; known once a client is made."""
    disconnect_hint: str = ""
    """What becomes of what was asked where walrusd goes away before it answers, if a command knows that."""

    def home_path(self) -> str:
        try:
            return paths.home_path(self.home, os.environ)
        except ConfigError as error:
            raise click.UsageError(str(error)) from None

    def connect(self, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Client:
        """A connection to the daemon; `within`: the seconds for an answer where --timeout says none, None for ever.

        Raises Unreachable.
        """
        self.timeout_hint = (
            "a turn goes on: `walrusctl session attach` shows it"
            if timeout_s is None
            else "is walrusd stopped or overloaded? Its log may tell; --timeout waits longer"
        )
        path = self._socket_path()
        try:
            return Client(path, self.timeout or timeout_s)
        except Unreachable as error:
            if self._has_explicit_socket() or not isinstance(
                error.__cause__, FileNotFoundError | ConnectionRefusedError
            ):
                raise
            self.socket = self._find_running_socket(path)  # for what is asked next, too
            if self.socket is None:
                raise
        return Client(self.socket, self.timeout or timeout_s)

    def call(self, method: str, params: Json | None = None, *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Json:
        """One request on a connection of its own. Raises Unreachable, RequestFailed and TimedOut."""
        with self.connect(timeout_s) as client:
            return client.call(method, params)

    def unreachable_hint(self, error: Unreachable) -> str:
        """What to do: of a walrusd that is this user's service, what the protocol's client cannot know."""
        cause = error.__cause__
        gone = cause is None or isinstance(cause, FileNotFoundError | ConnectionRefusedError)
        was_there = f"{self.disconnect_hint}; " if cause is None and self.disconnect_hint else ""
        if not gone or self._has_explicit_socket():
            return was_there + error.hint
        from walrusctl import systemd_units

        if not systemd_units.is_installed_for(systemd_units.unit_folder(os.environ), self.home_path()):
            return was_there + error.hint
        kept = "what it had acknowledged is kept; " if cause is None else ""
        start = systemd_units.START_COMMAND
        return f"{was_there}{kept}it is a service: `walrusctl service status` tells how it is, `{start}` starts it"

    def _has_explicit_socket(self) -> bool:
        """Whether the socket was said, and does not go by the home."""
        return bool(self.socket or os.environ.get("WALRUS_SOCKET"))

    def _socket_path(self) -> str:
        # A socket that is named needs no home, and there may be none.
        home = "" if self._has_explicit_socket() else self.home_path()
        try:
            configured = paths.read_configured_socket(home) if home else ""
            return paths.socket_path(self.socket, os.environ, home, configured=configured)
        except ConfigError as error:
            raise click.UsageError(str(error)) from None

    def _find_running_socket(self, path: str) -> str | None:
        """Where the walrusd of the home listens though its walrus.toml says `path` by now: it reads that at its start.

        None where it is nowhere else.
        """
        from walrusctl.lock_owner import find_lock_owner

        holder = find_lock_owner(paths.home_paths(self.home_path()).lock)
        if not holder or holder.socket in ("", path):
            return None
        print_note(f"walrusd (pid {holder.pid}) listens on {holder.socket}, and moves to {path} when it is restarted")
        return holder.socket


pass_cli_context = click.make_pass_decorator(CliContext, ensure=True)
