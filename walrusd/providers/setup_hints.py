"""Suggests providers to configure, from the API keys, Ollama and engine found on this machine."""

import sys
from collections.abc import Mapping
from importlib.util import find_spec

import trio
from msgspec import Struct

from walrus_protocol.json import BadJson, decode

API_KEY_VARIABLES = {
    "OPENAI_API_KEY": ("openai", "https://api.openai.com/v1"),
    "DEEPSEEK_API_KEY": ("deepseek", "https://api.deepseek.com/v1"),
    "OPENROUTER_API_KEY": ("openrouter", "https://openrouter.ai/api/v1"),
    "GROQ_API_KEY": ("groq", "https://api.groq.com/openai/v1"),
    "MISTRAL_API_KEY": ("mistral", "https://api.mistral.ai/v1"),
    "TOGETHER_API_KEY": ("together", "https://api.together.xyz/v1"),
    "GEMINI_API_KEY": ("gemini", "https://generativelanguage.googleapis.com/v1beta/openai"),
}
"""Well-known environment variables with API keys; the provider name and base URL of each."""
OLLAMA_PORT = 11434
PROBE_TIMEOUT_S = 0.3
"""Maximum seconds for Ollama to answer; a server on loopback needs about a millisecond."""


class _Tag(Struct):
    name: str


class _Tags(Struct):
    models: tuple[_Tag, ...] = ()


async def suggest_configuration(environ: Mapping[str, str], ollama_port: int = OLLAMA_PORT) -> str:
    """Returns sentences that name the tables to add to walrus.toml. Values of variables are never read."""
    found = [
        f'{variable} is set: add [providers.{name}] with kind = "openai", base_url = "{url}", '
        f'api_key = "${{{variable}}}" and models = ["…"].'
        for variable, (name, url) in API_KEY_VARIABLES.items()
        if variable in environ
    ]
    if (models := await _list_ollama_models(ollama_port)) is not None:
        listed = ", ".join(f'"{model}"' for model in models[:5]) or '"…"'
        found.append(
            'Ollama is running here: add [providers.ollama] with kind = "openai", '
            f'base_url = "http://127.0.0.1:{ollama_port}/v1" and models = [{listed}].'
        )
    if find_spec("xllamacpp"):
        found.append('The engine for local models is installed: add [providers.local] with kind = "local".')
    if not found:
        found.append(
            'Add a table such as [providers.openai] with kind = "openai", api_key = "${OPENAI_API_KEY}" and '
            'models = ["…"]; or install the engine for local models with '
            f'`{sys.executable} -m pip install xllamacpp` and add [providers.local] with kind = "local".'
        )
    return " ".join([*found, 'Write it to walrus.toml, set model = "…" in [defaults] and run `walrusctl reload`.'])


async def _list_ollama_models(port: int) -> tuple[str, ...] | None:
    """Returns the models of Ollama on loopback, or None if it does not answer.

    It speaks HTTP by hand, because importing an HTTP client is slow.
    """
    answer = b""
    with trio.move_on_after(PROBE_TIMEOUT_S) as probe:
        try:
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"GET /api/tags HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
                async for chunk in stream:
                    answer += chunk
                    if len(answer) > 1024 * 1024:
                        return None
        except (OSError, trio.BrokenResourceError):
            return None
    head, _, body = answer.partition(b"\r\n\r\n")
    if probe.cancelled_caught or b" 200 " not in head.split(b"\r\n")[0]:
        return None
    try:
        return tuple(tag.name for tag in decode(body, _Tags).models)
    except BadJson:
        return None
