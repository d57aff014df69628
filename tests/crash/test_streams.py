"""Tests SIGKILL of walrusd at any token of a reply: drafts survive, and every turn reaches its `done`."""

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
"""Number of concurrent sessions; session n has received n tokens when walrusd is killed."""
PACE_S = 0.03
"""Seconds between two tokens."""


def token(number: int) -> str:
    return f"{number} "


def paced_reply(request: ReceivedRequest) -> Behaviour:
    """Sends as many tokens as the message names and then hangs.

    All sessions get their last token at the same time.
    """
    tokens = int(request.last_content)
    events = [trio.Event() for _ in range(tokens + 1)]
    reply = replies([token(n) for n in range(tokens)] + ["never"], gate=events)

    async def stream_reply(exchange: Exchange) -> None:
        with suppress(trio.BrokenResourceError):  # the receiving daemon was killed
            await reply(exchange)

    async def behave(exchange: Exchange) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream_reply, exchange)
            await trio.sleep((SESSIONS - tokens) * PACE_S)
            for event in events[:-1]:
                event.set()
                await trio.sleep(PACE_S)

    return behave


def read_drafts(home: Home) -> dict[int, str]:
    """Returns the text of the stored drafts by session, read through a second connection."""
    db = apsw.Connection(str(home.path / "walrus.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        rows: list[tuple[int, bytes]] = list(db.execute("SELECT session, body FROM draft"))
    finally:
        db.close()
    return {session: decode(body, Draft).text for session, body in rows}


def has_received(requests: int, fake: FakeProvider) -> bool:
    return len(fake.requests) == requests


async def send_without_answer(client: AsyncClient, session: int) -> None:
    try:
        await client.send(SendParams(session=session, content=str(session), key="k"))
    except (RequestFailed, Unreachable):
        return
    raise AssertionError("the request was answered before the kill")


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
            drafts = await run_until_killed(home, fake)
            fake.requests.clear()
            fake.choose = lambda _: replies("All of it.")
            with home.walrusd() as daemon:
                async with connect(daemon.socket) as client:
                    for session in range(1, SESSIONS + 1):
                        await client.wait(WaitParams(session=session, states=("idle",), timeout_s=MAX_WAIT_S))
                        check(session, await read_logged_events(client, session), drafts.get(session, ""))
                        again = SendParams(session=session, content=str(session), key="k")
                        assert (await client.send(again)).text == "All of it."
    assert len(fake.requests) == SESSIONS, "the provider got one more request of each session"
    assert [violation for request in fake.requests for violation in openai_violations(request.messages)] == []


async def run_until_killed(home: Home, fake: FakeProvider) -> dict[int, str]:
    """Returns the drafts right before the kill.

    Session n has then received n tokens, the last a moment ago.
    """
    fake.choose = paced_reply
    with home.walrusd() as daemon:
        async with connect(daemon.socket) as client, trio.open_nursery() as nursery:
            for session in range(1, SESSIONS + 1):
                assert (await client.create(CreateParams(agent="walrus"))).session == session
            for session in range(1, SESSIONS + 1):
                nursery.start_soon(send_without_answer, client, session)
            await wait_for_last_token(client, SESSIONS)
            drafts = read_drafts(home)
            await trio.to_thread.run_sync(daemon.kill)
    assert len(drafts) > SESSIONS / 2, "enough drafts for the checks below to be meaningful"
    return drafts


def check(session: int, log: list[AnySessionEvent], draft: str) -> None:
    [first, last] = [event for event in log if isinstance(event, AssistantMessage)]
    sent = "".join(map(token, range(session)))
    assert isinstance(first.content, str)
    assert sent.startswith(first.content)
    assert first.content.startswith(draft), "the draft is in the interrupted message"
    assert (first.finish, last.content) == ("interrupted", "All of it.")
    [resumed] = [event for event in log if isinstance(event, TurnResumed)]
    assert (resumed.attempt, resumed.reason) == (2, "crash")
    kinds = [event.kind for event in log if isinstance(event, UserMessage)]
    assert kinds == (["message", "resume"] if first.content else ["message"])
    assert [event.stop_reason for event in log if isinstance(event, Done)] == ["text_response"]


async def test_a_turn_that_crashes_walrusd_twice_is_resumed_by_hand_only(tmp_path: Path) -> None:
    with trio.fail_after(3 * MAX_WAIT_S):
        async with open_provider() as fake:
            home = Home(tmp_path / "home", TOML.format(url=fake.url))
            fake.choose = lambda request: paced_reply(fake.requests[0])
            for run in (1, 2):
                with home.walrusd() as daemon:
                    async with connect(daemon.socket) as client:
                        if run == 1:
                            await client.create(CreateParams(agent="walrus"))
                            async with client.stream(SendParams(session=1, content="3")) as events:
                                await anext(events)
                        await fake.wait_until(partial(has_received, run))
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
