"""The common options of a call (home, socket, timeout, JSON), and the connection to walrusd."""

import os
from typing import NoReturn

import click

from walrus_config import paths
from walrus_config.errors import ConfigError
from walrus_protocol import wire
from walrus_protocol.client import Client, Json, Unreachable
from walrusctl.output import print_answer, print_json, print_note

DEFAULT_TIMEOUT_S = 5
"""Seconds for a response that walrusd can give immediately; if it takes longer, something is wrong."""


class CommandFailed(Exception):
    """A command cannot do its work, for a reason that has no kind in the protocol. `status` is the exit code."""

    def __init__(self, message: str, hint: str = "", status: int = wire.EXIT_INTERNAL) -> None:
        super().__init__(message)
        self.hint = hint
        self.status = status


class CliContext:
    """The common options; None means that an option was not given."""

    home: str | None = None
    socket: str | None = None
    json: bool = False
    timeout: float | None = None
    timeout_hint: str = ""
    """Advice for the user if no response arrives in time; set by `connect`."""
    disconnect_hint: str = ""
    """The fate of the request if walrusd stops before it responds; set by commands that know it."""

    def home_path(self) -> str:
        try:
            return paths.home_path(self.home, os.environ)
        except ConfigError as error:
            raise click.UsageError(str(error)) from None

    def connect(self, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Client:
        """Returns a connection to walrusd. Raises Unreachable.

        `timeout_s` applies if --timeout was not given; None waits without limit.
        """
        self.timeout_hint = (
            "a running turn continues; `walrusctl session attach` shows it"
            if timeout_s is None
            else "walrusd may be stopped or overloaded: see its log, or wait longer with --timeout"
        )
        path = self._socket_path()
        try:
            return Client(path, self.timeout or timeout_s)
        except Unreachable as error:
            if self._has_explicit_socket() or not isinstance(
                error.__cause__, FileNotFoundError | ConnectionRefusedError
            ):
                raise
            self.socket = self._find_running_socket(path)  # also for the next connection
            if self.socket is None:
                raise
        return Client(self.socket, self.timeout or timeout_s)

    def call(self, method: str, params: Json | None = None, *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Json:
        """Sends one request on a new connection. Raises Unreachable, RequestFailed and TimedOut."""
        with self.connect(timeout_s) as client:
            return client.call(method, params)

    def print_result(self, answer: Json, text: str, *notes: str) -> None:
        """Prints the result of a command: `answer` with --json, otherwise `text` and the non-empty notes."""
        if self.json:
            print_json(answer)
            return
        print_answer(text)
        for note in filter(None, notes):
            print_note(note)

    def exit_with_problems(self, error: ConfigError) -> NoReturn:
        """Prints with --json the problems of a configuration, and exits."""
        if self.json:
            print_json({"ok": False, "problems": [problem._asdict() for problem in error.problems]})
        raise click.exceptions.Exit(wire.EXIT_USAGE)

    def unreachable_hint(self, error: Unreachable) -> str:
        """Returns what to do; knows, unlike the protocol's client, whether walrusd is installed as a service."""
        cause = error.__cause__
        is_down = cause is None or isinstance(cause, FileNotFoundError | ConnectionRefusedError)
        consequence = f"{self.disconnect_hint}; " if cause is None and self.disconnect_hint else ""
        if not is_down or self._has_explicit_socket():
            return consequence + error.hint
        from walrusctl import systemd_units

        if not systemd_units.is_installed_for(systemd_units.unit_folder(os.environ), self.home_path()):
            return consequence + error.hint
        durable = "acknowledged messages are not lost; " if cause is None else ""
        start = systemd_units.START_COMMAND
        return f"{consequence}{durable}it is a service: `walrusctl service status` shows its state, `{start}` starts it"

    def _has_explicit_socket(self) -> bool:
        """Whether --socket or WALRUS_SOCKET gives the socket, instead of the home."""
        return bool(self.socket or os.environ.get("WALRUS_SOCKET"))

    def _socket_path(self) -> str:
        # An explicit socket needs no home, and there may be none.
        home = "" if self._has_explicit_socket() else self.home_path()
        try:
            configured = paths.read_configured_socket(home) if home else ""
            return paths.socket_path(self.socket, os.environ, home, configured=configured)
        except ConfigError as error:
            raise click.UsageError(str(error)) from None

    def _find_running_socket(self, path: str) -> str | None:
        """Returns the socket in the home's lock file if it differs from `path`, otherwise None.

        It differs if walrus.toml was changed: walrusd reads the socket's path only at its start.
        """
        from walrusctl.lock_owner import find_lock_owner

        owner = find_lock_owner(paths.home_paths(self.home_path()).lock)
        if not owner or owner.socket in ("", path):
            return None
        print_note(f"walrusd (pid {owner.pid}) listens on {owner.socket}; it moves to {path} when it is restarted")
        return owner.socket


pass_cli_context = click.make_pass_decorator(CliContext, ensure=True)
