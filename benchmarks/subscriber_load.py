"""Opens many client connections that each send one request, and then read and discard all events.

    python -m benchmarks.subscriber_load SOCKET [deaf]

With `deaf` the clients never read. stdin has one request a line, with method and params as JSON, then "ready?". The
answer "ready" is printed when every connection has received something.
"""

import json
import select
import socket
import sys

from benchmarks.wire import encode_request


def main() -> None:
    path, *deaf = sys.argv[1:]
    epoll = select.epoll()
    by_fd: dict[int, socket.socket] = {}
    for line in sys.stdin:
        if line.strip() == "ready?":
            break
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        connection.sendall(encode_request(**json.loads(line)))
        by_fd[connection.fileno()] = connection
        epoll.register(connection, select.EPOLLIN)
    waiting = set(by_fd)
    while waiting:
        waiting -= {fd for fd, _ in epoll.poll()} if deaf else drain(epoll, by_fd)
    print("ready", flush=True)
    while not deaf:
        drain(epoll, by_fd)
    sys.stdin.read()


def drain(epoll: select.epoll, by_fd: dict[int, socket.socket]) -> set[int]:
    """Reads once from each readable connection; returns their descriptors."""
    readable = {fd for fd, _ in epoll.poll()}
    for fd in readable:
        if not by_fd[fd].recv(1 << 20):
            raise EOFError("the daemon closed the connection")
    return readable


if __name__ == "__main__":
    main()
