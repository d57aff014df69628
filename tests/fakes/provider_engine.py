"""A fake engine of a local model: `python -m tests.fakes.provider_engine`.

Like the real engine it reads its order from stdin and exits when stdin closes. Its behaviour is the content of the file
that the order names as weights: `ready` serves, `die` exits immediately with an error message, `die later` exits in the
middle of an answer, `refuse` and `overloaded` answer with an error, `babble` prints a line that is not JSON, `load`
never becomes ready.
"""

import json
import os
import sys
from pathlib import Path

import trio

from tests.fakes.provider import STREAM_HEAD, Behaviour, Exchange, open_provider, replies, responds_with
from walrusd.providers.local_server import exit_when_stdin_closes


async def die_mid_answer(exchange: Exchange) -> None:
    await exchange.send(STREAM_HEAD)
    os.write(2, b"out of memory")
    os._exit(3)


async def main(behaviour_name: str) -> None:
    behaviours: dict[str, Behaviour] = {
        "ready": replies("hello"),
        "die later": die_mid_answer,
        "refuse": responds_with(400),
        "overloaded": responds_with(503),
    }
    async with open_provider() as fake:
        fake.set_default(behaviours[behaviour_name])
        print(json.dumps({"url": fake.url.removesuffix("/v1")}), flush=True)  # noqa: T201 - read by the parent
        await trio.sleep_forever()


if __name__ == "__main__":
    order = json.loads(sys.stdin.buffer.readline())
    exit_when_stdin_closes()
    behaviour = Path(order["weights"]).read_text()
    if behaviour == "load":
        trio.run(trio.sleep_forever)
    elif behaviour == "babble":
        print("hello?", flush=True)  # noqa: T201 - not a line of JSON
        trio.run(trio.sleep_forever)
    elif behaviour == "die":
        sys.exit(f"cannot load {order['weights']} with the key {order['key']}")
    else:
        trio.run(main, behaviour)
