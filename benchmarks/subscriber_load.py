"""Many clients in one process that send a request each, wait for its first event, and then only read and forget.

    python -m benchmarks.subscriber_load SOCKET      (reading; or `deaf`: they never read)

On stdin a request a line, method and params as JSON, then "ready?", which is answered when all have heard something.
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
    silent = set(by_fd)
    while silent:
        silent -= {fd for fd, _ in epoll.poll()} if deaf else drain(epoll, by_fd)
    print("ready", flush=True)
    while not deaf:
        drain(epoll, by_fd)
    sys.stdin.read()


def drain(epoll: select.epoll, by_fd: dict[int, socket.socket]) -> set[int]:
    """Read once from each that has something; who these were."""
    heard = {fd for fd, _ in epoll.poll()}
    for fd in heard:
        if not by_fd[fd].recv(1 << 20):
            raise EOFError("the daemon hung up")
    return heard


if __name__ == "__main__":
    main()
