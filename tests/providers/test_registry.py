"""Names, prices and hints: the configured providers as one Model."""

from collections.abc import Mapping
from typing import Any

import pytest
import trio
from msgspec import structs

from tests.fakes.models import models_of
from tests.fakes.provider import FakeProvider, open_provider, says
from walrus_config.schema import ModelSettings, Price, Provider, Secret
from walrus_protocol.content import TurnError, Usage, User
from walrus_protocol.housekeeping import ProviderStatus
from walrusd.ports import ModelFailed, ModelRequest, Reply, Said
from walrusd.providers.catalog import Catalog, Resolved
from walrusd.providers.registry import Models, cost_usd
from walrusd.session.history import History

ECHO = Provider(kind="echo")


def openai(*models: str, url: str = "http://127.0.0.1:1/v1") -> Provider:
    return Provider(kind="openai", base_url=url, models=models, max_retries=0)


async def ask(models: Models, model: str) -> Reply:
    request = ModelRequest(model=model, system="", history=History([User("hi there")]))
    return await models.reply(request, list[Said]().append)


@pytest.mark.parametrize(
    ("name", "resolved"),
    [
        ("chat", Resolved("deep", "chat")),
        ("meta/llama", Resolved("router", "meta/llama")),
        ("deep/other", Resolved("deep", "other")),
        ("router/meta/llama:free", Resolved("router", "meta/llama:free")),
        ("deep/llama", Resolved("router", "deep/llama")),
        ("echo", Resolved("echo", "echo")),
        ("echo/loud", Resolved("echo", "loud")),
    ],
)
def test_a_name_is_looked_up_whole_before_its_first_part_is_a_provider(name: str, resolved: Resolved) -> None:
    tables = {"deep": openai("chat"), "router": openai("meta/llama", "deep/llama"), "echo": ECHO}
    assert Catalog(tables, {}).resolve(name) == resolved


def failure(tables: Mapping[str, Provider], name: str) -> TurnError:
    with pytest.raises(ModelFailed) as failed:
        Catalog(tables, {}).resolve(name)
    return failed.value.error


@pytest.mark.parametrize("name", ["deepseek-caht", "deep/", "/chat", "other/deepseek-chat"])
def test_an_unknown_name_is_told_with_what_there_is(name: str) -> None:
    error = failure({"deep": openai("deepseek-chat"), "echo": ECHO}, name)
    assert error.kind == "model_not_found"
    assert error.message == f"No provider has a model called {name}."
    assert error.hint.endswith("There is echo, deepseek-chat.")


def test_the_nearest_name_is_guessed() -> None:
    assert failure({"deep": openai("deepseek-chat")}, "deepseek-caht").hint.startswith("Did you mean deepseek-chat?")


def test_no_name_means_the_only_model_there_is() -> None:
    assert Catalog({"echo": ECHO}, {}).resolve("") == Resolved("echo", "echo")
    assert Catalog({"deep": openai("chat")}, {}).resolve("") == Resolved("deep", "chat")


@pytest.mark.parametrize(
    "tables", [{"deep": openai("a", "b")}, {"deep": openai()}, {"echo": ECHO, "deep": openai("a")}]
)
def test_no_name_where_there_is_a_choice_is_a_failure_that_says_where_to_choose(tables: dict[str, Provider]) -> None:
    error = failure(tables, "")
    assert error.kind == "model_not_found"
    assert "Set model in [defaults]" in error.hint


async def test_status_names_every_provider_and_its_models() -> None:
    async with models_of({"deep": openai("a", "b"), "mine": ECHO}, {}) as models:
        assert models.status() == (
            ProviderStatus(name="deep", kind="openai", models=("a", "b")),
            ProviderStatus(name="mine", kind="echo", models=("mine",)),
        )
        assert await models.hint() == ""


PRICE = Price(input=2.0, output=10.0, cache_read=0.5)
TOKENS = {"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 400}}


@pytest.mark.parametrize(
    ("settings", "usage", "cost"),
    [
        ({}, TOKENS, None),
        ({"m": ModelSettings(price=PRICE)}, TOKENS, (600 * 2 + 400 * 0.5 + 100 * 10) / 1e6),
        ({"m": ModelSettings(price=PRICE), "p/m": ModelSettings(price=Price(input=1))}, TOKENS, 1000 / 1e6),
        ({"m": ModelSettings(price=PRICE)}, None, None),
        ({"m": ModelSettings(price=Price())}, TOKENS, 0.0),
    ],
    ids=["no price", "a price", "a price for this provider", "no usage", "free"],
)
async def test_a_call_costs_its_usage_and_an_unknown_price_is_never_zero(
    settings: dict[str, ModelSettings], usage: dict[str, Any] | None, cost: float | None
) -> None:
    async with open_provider() as fake, models_of({"p": openai("m", url=fake.url)}, settings) as models:
        fake.will(says("ok", usage=usage))
        reply = await ask(models, "m")
    assert reply.cost_usd == (None if cost is None else pytest.approx(cost))


def test_what_is_written_to_a_cache_costs_as_input_unless_it_has_its_own_price() -> None:
    usage = Usage(input=1, output=1, cache_read=1, cache_write=1)
    assert cost_usd(Price(input=1_000_000, output=0), usage) == 3
    assert cost_usd(Price(input=1_000_000, cache_read=0, cache_write=5_000_000), usage) == 6


async def test_an_echo_is_free_unless_a_price_is_set() -> None:
    async with models_of({"echo": ECHO}, {}) as models:
        assert await ask(models, "echo/any") == Reply(content="hi there", model="any", provider="echo", cost_usd=0.0)


async def test_after_a_reload_the_old_models_are_what_they_were_and_the_new_ones_what_is_configured() -> None:
    async with open_provider() as fake:
        fake.always(says("ok"))
        first, second = openai("m", url=fake.url), openai("m", "n", url=fake.url)
        old_key, new_key = Secret("old"), Secret("new")
        async with models_of({"p": structs.replace(first, api_key=old_key)}, {}) as old:
            prices = {"m": ModelSettings(price=Price(input=1_000_000))}
            new = old.reloaded({"p": structs.replace(second, api_key=new_key), "echo": ECHO}, prices)
            old.give_way_to(new)
            assert [(await ask(models, "m")).cost_usd for models in (old, new)] == [None, 10]
            with pytest.raises(ModelFailed):
                await ask(old, "n")
            assert (await ask(new, "n")).content == "ok"
            assert [status.models for status in new.status()] == [("m", "n"), ("echo",)]
        keys = [request.headers["authorization"] for request in fake.requests]
    assert keys == ["Bearer old", "Bearer new", "Bearer new"]


async def test_without_providers_the_failure_says_what_to_configure() -> None:
    environ = {"DEEPSEEK_API_KEY": "sk-secret", "PATH": "/bin"}
    async with models_of({}, {}, environ=environ, ollama_port=1) as models:
        assert models.status() == ()
        with pytest.raises(ModelFailed) as failed:
            await ask(models, "")
        error = failed.value.error
    assert (error.kind, error.message) == ("no_provider", "No model provider is configured.")
    assert 'DEEPSEEK_API_KEY is set: add [providers.deepseek] with kind = "openai"' in error.hint
    assert "OPENAI_API_KEY" not in error.hint
    assert "Ollama" not in error.hint
    assert "sk-secret" not in error.hint


async def ollama(stream: trio.SocketStream) -> None:
    async with stream:
        await stream.receive_some()
        await stream.send_all(b'HTTP/1.0 200 OK\r\n\r\n{"models": [{"name": "llama3.2:1b", "size": 1}]}')


async def silence(stream: trio.SocketStream) -> None:
    async with stream:
        await trio.sleep_forever()


@pytest.mark.parametrize(("server", "found"), [(ollama, True), (silence, False), (FakeProvider(0).serve, False)])
async def test_an_ollama_on_loopback_is_found_with_its_models(server: Any, found: bool) -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, server, [listener])
        port = listener.socket.getsockname()[1]
        async with models_of({}, {}, environ={}, ollama_port=port) as models:
            hint = await models.hint()
        nursery.cancel_scope.cancel()
    wanted = f'base_url = "http://127.0.0.1:{port}/v1" and models = ["llama3.2:1b"]'
    assert (wanted in hint, "Ollama" in hint) == (found, found)
