"""A ping client: strict request and response on one blocking socket, as fast as possible.

    python benchmarks/ping_client.py SOCKET SECONDS

It waits for a line on stdin, then prints the round trips, the seconds and the CPU seconds.

It uses only the standard library and no JSON, so that mainly the server is measured.
"""

import socket
import sys
import time

PAYLOAD = b'{"jsonrpc":"2.0","id":1,"method":"daemon.ping","params":{}}'
FRAME = len(PAYLOAD).to_bytes(4, "big") + PAYLOAD


def main(path: str, seconds: float) -> None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    _round_trip(connection)
    print("ready", flush=True)
    sys.stdin.readline()
    trips = 0
    began, cpu = time.perf_counter(), time.process_time()
    until = began + seconds
    while time.perf_counter() < until:
        for _ in range(20):
            _round_trip(connection)
        trips += 20
    print(trips, time.perf_counter() - began, time.process_time() - cpu, flush=True)


def _round_trip(connection: socket.socket) -> None:
    connection.sendall(FRAME)
    answer = connection.recv(4096)
    while len(answer) < 4 or len(answer) < 4 + int.from_bytes(answer[:4], "big"):
        answer += connection.recv(4096)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
