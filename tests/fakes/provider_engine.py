"""A stand-in for the local model's engine: `python -m tests.fakes.provider_engine`.

It takes its order as the real one does and lives by the same rule. What it does is written in the file that it is
given as weights: `ready` serves, `die` ends at once with a last word, `die later` ends in the middle of an answer,
`babble` prints nonsense, `load` never gets ready.
"""

import json
import os
import sys
from pathlib import Path

import trio

from tests.fakes.provider import STREAM_HEAD, Behaviour, Exchange, open_provider, replies
from walrusd.providers.local_server import exit_when_stdin_closes


async def die_mid_answer(exchange: Exchange) -> None:
    await exchange.send(STREAM_HEAD)
    os.write(2, b"out of memory")
    os._exit(3)


async def main(behaviour_name: str) -> None:
    behaviours: dict[str, Behaviour] = {"ready": replies("hello"), "die later": die_mid_answer}
    async with open_provider() as fake:
        fake.set_default(behaviours[behaviour_name])
        print(json.dumps({"url": fake.url.removesuffix("/v1")}), flush=True)  # noqa: T201 - how its parent knows
        await trio.sleep_forever()


if __name__ == "__main__":
    order = json.loads(sys.stdin.buffer.readline())
    exit_when_stdin_closes()
    conduct = Path(order["weights"]).read_text()
    if conduct == "load":
        trio.run(trio.sleep_forever)
    elif conduct == "babble":
        print("hello?", flush=True)  # noqa: T201 - no line of JSON
        trio.run(trio.sleep_forever)
    elif conduct == "die":
        sys.exit(f"cannot load {order['weights']} with the key {order['key']}")
    else:
        trio.run(main, conduct)
