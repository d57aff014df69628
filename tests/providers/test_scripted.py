"""Tests of the scripted model, whose reply depends on the conversation alone."""

import re
from pathlib import Path

import pytest
import trio

from tests.fakes.models import open_models_with_spawner
from walrus_config.schema import ModelSettings, PriceSettings, ProviderSettings
from walrus_protocol.content import Assistant, Message, ToolCall, ToolOutput, Usage, User
from walrusd.ports import ModelFailed, ModelRequest, Reply, ReplyChunk, TextChunk, ThinkingChunk
from walrusd.providers.echo import Echo
from walrusd.providers.scripted import Scripted, ScriptedCall, ScriptedError, ScriptedReply
from walrusd.session.conversation import ConversationView

PAGE = (Path(__file__).parents[2] / "docs" / "scripted.md").read_text()


def request_of(*messages: Message) -> ModelRequest:
    return ModelRequest(purpose="turn", model="play", system="", history=ConversationView(messages))


async def reply_text(script: Scripted, *messages: Message) -> str:
    return str((await script.reply(request_of(*messages), list[ReplyChunk]().append)).content)


ONE, TWO, THREE = (ScriptedReply(text=text) for text in ("one", "two", "three"))
READ_REPLY = ScriptedReply(calls=(ScriptedCall(name="read", arguments={"path": "a"}),))
CALL_MESSAGE = Assistant(calls=(ToolCall("c", "read", {}),))
CALL_OUTPUT = ToolOutput(call_id="c", name="read", output="x")


async def test_the_nth_call_gets_the_nth_reply() -> None:
    script = Scripted([ONE, TWO, THREE])
    assert await reply_text(script, User("a")) == "one"
    assert await reply_text(script, User("a"), Assistant(content="one"), User("b")) == "two"
    assert await reply_text(script, User("a"), CALL_MESSAGE, CALL_OUTPUT, CALL_MESSAGE, CALL_OUTPUT) == "three"


async def test_the_script_continues_after_a_reply_that_left_no_message() -> None:
    script = Scripted([ScriptedReply(error=ScriptedError(kind="provider_auth", message="no")), TWO])
    with pytest.raises(ModelFailed) as failed:
        await reply_text(script, User("a"))
    assert (failed.value.error.kind, failed.value.error.message) == ("provider_auth", "no")
    assert await reply_text(script, User("a"), User("b")) == "two"


async def test_a_steer_after_a_tool_call_does_not_use_up_a_reply() -> None:
    assert await reply_text(Scripted([READ_REPLY, TWO]), User("a"), CALL_MESSAGE, CALL_OUTPUT, User("also b")) == "two"


async def test_replies_with_when_start_again_for_each_message_and_use_up_no_others() -> None:
    rule = (ScriptedReply(when="look", calls=READ_REPLY.calls), ScriptedReply(when="look", text="seen"))
    script = Scripted([ONE, *rule, TWO])
    look: tuple[Message, ...] = (User("please look"), CALL_MESSAGE, CALL_OUTPUT)
    assert await reply_text(script, *look) == "seen"
    assert await reply_text(script, *look, Assistant(content="seen"), *look) == "seen"
    assert await reply_text(script, *look, Assistant(content="seen"), User("b")) == "one"
    assert await reply_text(script, User("a"), Assistant(content="one"), *look, Assistant(), User("b")) == "two"


async def test_a_script_without_replies_left_is_a_failure_with_their_number() -> None:
    with pytest.raises(ModelFailed) as failed:
        await reply_text(Scripted([ONE]), User("a"), Assistant(content="one"), User("b"))
    assert failed.value.error.kind == "provider_bad_response"
    assert "no reply left: it has 1 for this message, and this is call 2." in failed.value.error.message


async def test_a_hanging_reply_streams_its_text_and_never_ends() -> None:
    chunks = list[ReplyChunk]()
    script = Scripted([ScriptedReply(text="Hel", hang=True)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(script.reply, request_of(User("a")), chunks.append)
        await trio.testing.wait_all_tasks_blocked()
        assert chunks == [TextChunk("Hel")]
        nursery.cancel_scope.cancel()


SCRIPT = """
[[reply]]
thinking = "I need the file first."
calls = [{ name = "read", arguments = { path = "notes.txt" } }, { name = "read", arguments = "{", id = "x" }]

[[reply]]
pieces = ["It says ", "hello."]
usage = { input = 120, output = 8 }
cost_usd = 0.0004
delay_s = 0.001
"""


async def test_a_script_file_is_played_through_the_registry(tmp_path: Path) -> None:
    path = tmp_path / "play.toml"
    path.write_text(SCRIPT)
    async with open_models_with_spawner({"play": ProviderSettings(kind="scripted", path=str(path))}, {}) as models:
        chunks = list[ReplyChunk]()
        first = await models.reply(request_of(User("a")), chunks.append)
        second = await models.reply(request_of(User("a"), CALL_MESSAGE, CALL_OUTPUT), chunks.append)
    assert first == Reply(
        thinking="I need the file first.",
        calls=(ToolCall("call_1_0", "read", {"path": "notes.txt"}), ToolCall("x", "read", "{")),
        finish="tool_calls",
        model="play",
        provider="play",
        cost_usd=0.0,
    )
    assert second == Reply(
        content="It says hello.",
        model="play",
        provider="play",
        usage=Usage(input=120, output=8),
        cost_usd=0.0004,
    )
    assert chunks == [ThinkingChunk("I need the file first."), TextChunk("It says "), TextChunk("hello.")]


async def test_a_configured_price_overrides_the_cost_in_the_script(tmp_path: Path) -> None:
    path = tmp_path / "play.toml"
    path.write_text('[[reply]]\ntext = "a"\nusage = { input = 1000000 }\ncost_usd = 5.0\n')
    prices = {"play": ModelSettings(price=PriceSettings(input=3.0))}
    async with open_models_with_spawner({"play": ProviderSettings(kind="scripted", path=str(path))}, prices) as models:
        assert (await models.reply(request_of(User("a")), list[ReplyChunk]().append)).cost_usd == 3.0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No such file"),
        ("[[reply", "Expected ']]'"),
        ('[[reply]]\ntexd = "a"', "texd"),
        ("[[reply]]\ntext = 1", "reply[0].text"),
        ('[[reply]]\nerror = { kind = "bad_luck" }', "bad_luck"),
    ],
)
async def test_an_invalid_script_is_an_error_with_its_place_and_is_read_again(
    text: str | None, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "play.toml"
    if text is not None:
        path.write_text(text)
    async with open_models_with_spawner({"play": ProviderSettings(kind="scripted", path=str(path))}, {}) as models:
        with pytest.raises(ModelFailed) as failed:
            await models.reply(request_of(User("a")), list[ReplyChunk]().append)
        assert failed.value.error.kind == "model_not_found"
        assert str(path) in failed.value.error.message
        assert reason in failed.value.error.message
        path.write_text('[[reply]]\ntext = "ok"')
        assert (await models.reply(request_of(User("a")), list[ReplyChunk]().append)).content == "ok"


@pytest.mark.parametrize("text", ["", "one", " two  words\nand a line \n"])
async def test_the_echo_provider_streams_the_last_user_text_word_by_word(text: str) -> None:
    chunks = list[ReplyChunk]()
    request = request_of(User("first"), Assistant(content="first"), User(text))
    assert await Echo().exchange(request, chunks.append) == Reply(content=text, cost_usd=0.0)
    assert "".join(piece.text for piece in chunks) == text
    assert len(chunks) == len(text.split())


async def test_the_documented_example_is_a_script(tmp_path: Path) -> None:
    script = re.search(r"```toml\n(# answers.toml\n.*?)```", PAGE, re.DOTALL)
    assert script
    path = tmp_path / "play.toml"
    path.write_text(script[1])
    async with open_models_with_spawner({"play": ProviderSettings(kind="scripted", path=str(path))}, {}) as models:
        reply = await models.reply(request_of(User("the weather?")), list[ReplyChunk]().append)
        looked = await models.reply(request_of(User("the notes?")), list[ReplyChunk]().append)
    assert (reply.content, [call.name for call in looked.calls]) == ("Sunny.", ["read"])


def test_the_documentation_lists_exactly_the_keys_of_a_reply() -> None:
    documented = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(documented) == sorted(ScriptedReply.__struct_fields__)
