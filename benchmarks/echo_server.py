"""A bare trio server with the same frames as walrusd; it gives the floor for socket measurements.

    python -m benchmarks.echo_server SOCKET

It echoes every frame. A frame with a number N gets about N bytes of prebuilt event frames and a response: the highest
rate at which a client can receive.
"""

import sys

import trio

from benchmarks.wire import HEADER

EVENT = (
    b'{"jsonrpc":"2.0","method":"event","params":{"request":1,"event":{"seq":12345,"offset":67890,'
    b'"type":"tool_result","ts":1795000000.123456,"session":1,"turn":7,"call_id":"call_1","name":"read",'
    b'"output":"%b","is_error":false,"outcome":"ok","gate":null,"rule":null,"truncated":false,"bytes":64,"ref":null,'
    b'"duration_ms":1}}}'
) % (b"x" * 64)
EVENT_FRAME = HEADER.pack(len(EVENT)) + EVENT
RESPONSE = b'{"jsonrpc":"2.0","id":1,"result":{}}'
SEND_BYTES = 256 * 1024


async def serve(stream: trio.SocketStream) -> None:
    buffer = bytearray()
    async with stream:
        while data := await stream.receive_some(65536):
            buffer += data
            at = 0
            answers = []
            while len(buffer) - at >= 4:
                (size,) = HEADER.unpack_from(buffer, at)
                if len(buffer) - at < 4 + size:
                    break
                payload = bytes(buffer[at + 4 : at + 4 + size])
                at += 4 + size
                if payload.isdigit():
                    await _flood(stream, int(payload))
                    payload = RESPONSE
                answers.append(HEADER.pack(len(payload)) + payload)
            del buffer[:at]
            await stream.send_all(b"".join(answers))


async def _flood(stream: trio.SocketStream, size: int) -> None:
    page = EVENT_FRAME * (SEND_BYTES // len(EVENT_FRAME))
    for _ in range(size // len(page)):
        await stream.send_all(page)


async def main(path: str) -> None:
    with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM) as bound:
        await bound.bind(path)
        bound.listen(64)
        print("ready", flush=True)
        await trio.serve_listeners(serve, [trio.SocketListener(bound)])


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
