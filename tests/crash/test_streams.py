"""kill -9 while models speak, at whatever token: what was said is kept, and every turn goes on to its `done`."""

from contextlib import suppress
from functools import partial
from pathlib import Path

import apsw
import trio

from tests.fakes.home import MAX_WAIT_S, Home
from tests.fakes.provider import Behaviour, Exchange, FakeProvider, ReceivedRequest, open_provider, replies
from tests.fakes.validators import openai_violations
from walrus_protocol.async_client import AsyncClient, connect
from walrus_protocol.client import RequestFailed, Unreachable
from walrus_protocol.events import AnySessionEvent, AssistantMessage, Done, TextDelta, TurnResumed, UserMessage
from walrus_protocol.json import decode
from walrus_protocol.methods import AttachParams, CreateParams, SendParams, SessionParams, WaitParams
from walrusd.session.recovery import Draft

TOML = """
[defaults]
model = "fake"
[providers.fake]
kind = "openai"
base_url = "{url}"
models = ["fake"]
"""
SESSIONS = 24
PACE_S = 0.03


def token(number: int) -> str:
    return f"{number} "


def paced_reply(request: ReceivedRequest) -> Behaviour:
    """So many tokens as the message says, the last of all sessions at the same time; then nothing more."""
    tokens = int(request.last_content)
    events = [trio.Event() for _ in range(tokens + 1)]
    speaks = replies([token(n) for n in range(tokens)] + ["never"], gate=events)

    async def heard(exchange: Exchange) -> None:
        with suppress(trio.BrokenResourceError):  # whoever listened was killed
            await speaks(exchange)

    async def speak(exchange: Exchange) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heard, exchange)
            await trio.sleep((SESSIONS - tokens) * PACE_S)
            for event in events[:-1]:
                event.set()
                await trio.sleep(PACE_S)

    return speak


def read_drafts(home: Home) -> dict[int, str]:
    """What is beside the log, by session, as another process sees it."""
    db = apsw.Connection(str(home.path / "walrus.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        rows: list[tuple[int, bytes]] = list(db.execute("SELECT session, body FROM draft"))
    finally:
        db.close()
    return {session: decode(body, Draft).text for session, body in rows}


def has_been_asked(times: int, fake: FakeProvider) -> bool:
    return len(fake.requests) == times


async def send_without_answer(client: AsyncClient, session: int) -> None:
    try:
        await client.send(SendParams(session=session, content=str(session), key="k"))
    except (RequestFailed, Unreachable):
        return
    raise AssertionError("it was never answered")


async def wait_for_last_token(client: AsyncClient, session: int) -> None:
    async with client.attach(AttachParams(session=session)) as events:
        async for event in events:
            if isinstance(event, TextDelta) and event.text == token(session - 1):
                return


async def read_logged_events(client: AsyncClient, session: int) -> list[AnySessionEvent]:
    async with client.attach(AttachParams(session=session, follow=False)) as events:
        return [event async for event in events if isinstance(event, AnySessionEvent)]


async def test_a_turn_killed_at_any_token_keeps_its_text_and_runs_to_its_done(tmp_path: Path) -> None:
    with trio.fail_after(3 * MAX_WAIT_S):
        async with open_provider() as fake:
            home = Home(tmp_path / "home", TOML.format(url=fake.url))
            kept = await run_until_killed(home, fake)
            fake.requests.clear()
            fake.choose = lambda _: replies("All of it.")
            with home.walrusd() as daemon:
                async with connect(daemon.socket) as client:
                    for session in range(1, SESSIONS + 1):
                        await client.wait(WaitParams(session=session, states=("idle",), timeout_s=MAX_WAIT_S))
                        check(session, await read_logged_events(client, session), kept.get(session, ""))
                        again = SendParams(session=session, content=str(session), key="k")
                        assert (await client.send(again)).text == "All of it."
    assert len(fake.requests) == SESSIONS, "each was asked once more"
    assert [refused for request in fake.requests for refused in openai_violations(request.messages)] == []


async def run_until_killed(home: Home, fake: FakeProvider) -> dict[int, str]:
    """What was beside the log right before; session n has heard n tokens, and the last of them just now."""
    fake.choose = paced_reply
    with home.walrusd() as daemon:
        async with connect(daemon.socket) as client, trio.open_nursery() as nursery:
            for session in range(1, SESSIONS + 1):
                assert (await client.create(CreateParams(agent="walrus"))).session == session
            for session in range(1, SESSIONS + 1):
                nursery.start_soon(send_without_answer, client, session)
            await wait_for_last_token(client, SESSIONS)
            kept = read_drafts(home)
            await trio.to_thread.run_sync(daemon.kill)
    assert len(kept) > SESSIONS / 2, "or nothing below says much"
    return kept


def check(session: int, log: list[AnySessionEvent], draft: str) -> None:
    [first, last] = [event for event in log if isinstance(event, AssistantMessage)]
    said = "".join(map(token, range(session)))
    assert isinstance(first.content, str)
    assert said.startswith(first.content)
    assert first.content.startswith(draft), "what was beside the log is in it"
    assert (first.finish, last.content) == ("interrupted", "All of it.")
    [resumed] = [event for event in log if isinstance(event, TurnResumed)]
    assert (resumed.attempt, resumed.reason) == (2, "crash")
    asked = [event.kind for event in log if isinstance(event, UserMessage)]
    assert asked == (["message", "resume"] if first.content else ["message"])
    assert [event.stop_reason for event in log if isinstance(event, Done)] == ["text_response"]


async def test_a_turn_that_crashes_walrusd_twice_is_resumed_by_hand_only(tmp_path: Path) -> None:
    with trio.fail_after(3 * MAX_WAIT_S):
        async with open_provider() as fake:
            home = Home(tmp_path / "home", TOML.format(url=fake.url))
            fake.choose = lambda request: paced_reply(fake.requests[0])
            for life in (1, 2):
                with home.walrusd() as daemon:
                    async with connect(daemon.socket) as client:
                        if life == 1:
                            await client.create(CreateParams(agent="walrus"))
                            async with client.stream(SendParams(session=1, content="3")) as events:
                                await anext(events)
                        await fake.wait_until(partial(has_been_asked, life))
                        await trio.to_thread.run_sync(daemon.kill)
            fake.choose = lambda _: replies("All of it.")
            with home.walrusd() as daemon:
                async with connect(daemon.socket) as client:
                    assert (await client.session(SessionParams(session=1))).state == "error"
                    [done] = [event for event in await read_logged_events(client, 1) if isinstance(event, Done)]
                    assert done.error
                    assert done.error.kind == "crashed_repeatedly"
                    assert len(fake.requests) == 2
                resumed = await trio.to_thread.run_sync(home.walrusctl, "session", "resume", "1")
                assert (resumed.returncode, resumed.stdout) == (0, "All of it.\n")
    assert openai_violations(fake.requests[-1].messages) == []
