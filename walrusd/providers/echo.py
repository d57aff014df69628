"""The echo provider: answers with the last user message, to try walrusd without a real model."""

import re

import trio

from walrus_protocol.content import User, plain_text
from walrusd.ports import ModelRequest, OnChunk, Reply, TextChunk


class Echo:
    """Implements the Provider port; streams the last user text word by word."""

    async def exchange(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        user_messages = [message for message in request.history.messages if isinstance(message, User)]
        text = plain_text(user_messages[-1].content) if user_messages else ""
        for piece in re.findall(r"\s*\S+\s*$|\s*\S+", text):
            on_chunk(TextChunk(piece))
            await trio.lowlevel.checkpoint()
        return Reply(content=text, cost_usd=0.0)
