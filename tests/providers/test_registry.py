"""Tests of the configured providers as one Model: names, prices and hints."""

from collections.abc import Mapping
from typing import Any

import pytest
import trio
from msgspec import structs

from tests.fakes.models import open_models_with_spawner
from tests.fakes.provider import FakeProvider, open_provider, replies
from walrus_config.schema import ModelSettings, PriceSettings, ProviderSettings, Secret
from walrus_protocol.content import TurnError, Usage, User
from walrus_protocol.methods.daemon import ProviderStatus
from walrusd.ports import ModelFailed, ModelRequest, Reply, ReplyChunk
from walrusd.providers.catalog import Catalog, ResolvedModel
from walrusd.providers.registry import Models, cost_usd
from walrusd.session.conversation import ConversationView

ECHO = ProviderSettings(kind="echo")


def openai_settings(*models: str, url: str = "http://127.0.0.1:1/v1") -> ProviderSettings:
    return ProviderSettings(kind="openai", base_url=url, models=models, max_retries=0)


async def ask(models: Models, model: str) -> Reply:
    request = ModelRequest(purpose="turn", model=model, system="", history=ConversationView([User("hi there")]))
    return await models.reply(request, list[ReplyChunk]().append)


@pytest.mark.parametrize(
    ("name", "resolved"),
    [
        ("chat", ResolvedModel("deep", "chat")),
        ("meta/llama", ResolvedModel("router", "meta/llama")),
        ("deep/other", ResolvedModel("deep", "other")),
        ("router/meta/llama:free", ResolvedModel("router", "meta/llama:free")),
        ("deep/llama", ResolvedModel("router", "deep/llama")),
        ("echo", ResolvedModel("echo", "echo")),
        ("echo/loud", ResolvedModel("echo", "loud")),
    ],
)
def test_a_name_is_first_looked_up_whole_and_then_as_provider_and_model(name: str, resolved: ResolvedModel) -> None:
    tables = {"deep": openai_settings("chat"), "router": openai_settings("meta/llama", "deep/llama"), "echo": ECHO}
    assert Catalog(tables, {}).resolve(name) == resolved


def failure(tables: Mapping[str, ProviderSettings], name: str) -> TurnError:
    with pytest.raises(ModelFailed) as failed:
        Catalog(tables, {}).resolve(name)
    return failed.value.error


@pytest.mark.parametrize("name", ["deepseek-caht", "deep/", "/chat", "other/deepseek-chat"])
def test_the_error_of_an_unknown_name_lists_the_available_models(name: str) -> None:
    error = failure({"deep": openai_settings("deepseek-chat"), "echo": ECHO}, name)
    assert error.kind == "model_not_found"
    assert error.message == f"No provider has a model called {name}."
    assert error.hint.endswith("Available models: echo, deepseek-chat.")


def test_the_error_of_a_misspelt_name_suggests_the_nearest() -> None:
    assert failure({"deep": openai_settings("deepseek-chat")}, "deepseek-caht").hint.startswith(
        "Did you mean deepseek-chat?"
    )


def test_an_empty_name_means_the_only_model() -> None:
    assert Catalog({"echo": ECHO}, {}).resolve("") == ResolvedModel("echo", "echo")
    assert Catalog({"deep": openai_settings("chat")}, {}).resolve("") == ResolvedModel("deep", "chat")


@pytest.mark.parametrize(
    "tables",
    [{"deep": openai_settings("a", "b")}, {"deep": openai_settings()}, {"echo": ECHO, "deep": openai_settings("a")}],
)
def test_an_empty_name_with_several_models_fails_with_a_hint_to_the_key(
    tables: dict[str, ProviderSettings],
) -> None:
    error = failure(tables, "")
    assert error.kind == "model_not_found"
    assert "Set model in [defaults]" in error.hint


async def test_status_names_every_provider_and_its_models() -> None:
    async with open_models_with_spawner({"deep": openai_settings("a", "b"), "mine": ECHO}, {}) as models:
        assert models.status() == (
            ProviderStatus(name="deep", kind="openai", models=("a", "b")),
            ProviderStatus(name="mine", kind="echo", models=("mine",)),
        )
        assert await models.setup_hint() == ""


PRICE = PriceSettings(input=2.0, output=10.0, cache_read=0.5)
TOKENS = {"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 400}}


@pytest.mark.parametrize(
    ("settings", "usage", "cost"),
    [
        ({}, TOKENS, None),
        ({"m": ModelSettings(price=PRICE)}, TOKENS, (600 * 2 + 400 * 0.5 + 100 * 10) / 1e6),
        ({"m": ModelSettings(price=PRICE), "p/m": ModelSettings(price=PriceSettings(input=1))}, TOKENS, 1000 / 1e6),
        ({"m": ModelSettings(price=PRICE)}, None, None),
        ({"m": ModelSettings(price=PriceSettings())}, TOKENS, 0.0),
    ],
    ids=["no price", "a price", "a price for this provider", "no usage", "free"],
)
async def test_a_call_costs_its_usage_and_an_unknown_price_is_never_zero(
    settings: dict[str, ModelSettings], usage: dict[str, Any] | None, cost: float | None
) -> None:
    async with (
        open_provider() as fake,
        open_models_with_spawner({"p": openai_settings("m", url=fake.url)}, settings) as models,
    ):
        fake.enqueue(replies("ok", usage=usage))
        reply = await ask(models, "m")
    assert reply.cost_usd == (None if cost is None else pytest.approx(cost))


def test_cached_tokens_cost_the_input_price_unless_they_have_their_own() -> None:
    usage = Usage(input=1, output=1, cache_read=1, cache_write=1)
    assert cost_usd(PriceSettings(input=1_000_000, output=0), usage) == 3
    assert cost_usd(PriceSettings(input=1_000_000, cache_read=0, cache_write=5_000_000), usage) == 6


async def test_the_echo_provider_is_free() -> None:
    async with open_models_with_spawner({"echo": ECHO}, {}) as models:
        assert await ask(models, "echo/any") == Reply(content="hi there", model="any", provider="echo", cost_usd=0.0)


async def test_a_reload_leaves_the_old_models_unchanged_and_builds_new_ones() -> None:
    async with open_provider() as fake:
        fake.set_default(replies("ok"))
        first, second = openai_settings("m", url=fake.url), openai_settings("m", "n", url=fake.url)
        old_key, new_key = Secret("old"), Secret("new")
        async with open_models_with_spawner({"p": structs.replace(first, api_key=old_key)}, {}) as old:
            prices = {"m": ModelSettings(price=PriceSettings(input=1_000_000))}
            new = old.with_configuration({"p": structs.replace(second, api_key=new_key), "echo": ECHO}, prices)
            old.retire_unshared(new)
            assert [(await ask(models, "m")).cost_usd for models in (old, new)] == [None, 10]
            with pytest.raises(ModelFailed):
                await ask(old, "n")
            assert (await ask(new, "n")).content == "ok"
            assert [status.models for status in new.status()] == [("m", "n"), ("echo",)]
        keys = [request.headers["authorization"] for request in fake.requests]
    assert keys == ["Bearer old", "Bearer new", "Bearer new"]


async def test_the_failure_without_providers_states_what_to_configure() -> None:
    environ = {"DEEPSEEK_API_KEY": "sk-secret", "PATH": "/bin"}
    async with open_models_with_spawner({}, {}, environ=environ, ollama_port=1) as models:
        assert models.status() == ()
        with pytest.raises(ModelFailed) as failed:
            await ask(models, "")
        error = failed.value.error
    assert (error.kind, error.message) == ("no_provider", "No model provider is configured.")
    assert 'DEEPSEEK_API_KEY is set: add [providers.deepseek] with kind = "openai"' in error.hint
    assert "OPENAI_API_KEY" not in error.hint
    assert "Ollama" not in error.hint
    assert "sk-secret" not in error.hint


async def serve_ollama(stream: trio.SocketStream) -> None:
    async with stream:
        await stream.receive_some()
        await stream.send_all(b'HTTP/1.0 200 OK\r\n\r\n{"models": [{"name": "llama3.2:1b", "size": 1}]}')


async def never_answer(stream: trio.SocketStream) -> None:
    async with stream:
        await trio.sleep_forever()


@pytest.mark.parametrize(
    ("server", "found"), [(serve_ollama, True), (never_answer, False), (FakeProvider(0).serve, False)]
)
async def test_ollama_on_loopback_is_found_with_its_models(server: Any, found: bool) -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, server, [listener])
        port = listener.socket.getsockname()[1]
        async with open_models_with_spawner({}, {}, environ={}, ollama_port=port) as models:
            hint = await models.setup_hint()
        nursery.cancel_scope.cancel()
    expected = f'base_url = "http://127.0.0.1:{port}/v1" and models = ["llama3.2:1b"]'
    assert (expected in hint, "Ollama" in hint) == (found, found)
