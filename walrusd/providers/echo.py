"""The echo: answers with the last user text, word by word. For trying out everything but a model."""

import re

import trio

from walrus_protocol.content import User, plain_text
from walrusd.ports import ModelRequest, OnChunk, Reply, TextChunk


class Echo:
    """Fills the Model port."""

    async def reply(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        heard = [message for message in request.history.messages if isinstance(message, User)]
        text = plain_text(heard[-1].content) if heard else ""
        for piece in re.findall(r"\s*\S+\s*$|\s*\S+", text):
            on_chunk(TextChunk(piece))
            await trio.lowlevel.checkpoint()
        return Reply(content=text, model=request.model, provider="echo", cost_usd=0.0)
