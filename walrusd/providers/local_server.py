"""The local model's engine, in a process of its own: `python -m walrusd.providers.local_server`.

One line of JSON on stdin says what to load, one line on stdout says where it listens, or why it does not. What the
engine logs goes to stderr. It speaks the OpenAI wire on loopback to who knows the key. It imports nothing of walrusd.

It lives as long as its stdin is open, so it ends with the daemon, however that ends. The kernel sees to that with
SIGIO, whose default is to end the process: while the engine loads a model it holds the interpreter's lock for seconds,
and no Python would run to notice. The death signal that the daemon asks for does the same, where there is one.
"""

import fcntl
import json
import os
import select
import signal
import sys

PROMPT_CACHE_MIB = 256
"""The engine's own default is 8 GiB, which is more than a daemon in the background may take unasked."""
TEMPERATURE = 0.2
"""As the authors of SmolLM2 advise; at the engine's 0.8 a small model soon talks nonsense."""
REPEAT_PENALTY = 1.1
"""At the engine's 1.0 the same model told half of its stories in circles, until it was cut off."""


def main() -> None:
    order = json.loads(sys.stdin.buffer.readline())
    exit_when_stdin_closes()
    os.nice(10)
    ready = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the engine prints is log

    import xllamacpp  # only now: from here on the process can be ended

    params = xllamacpp.CommonParams()
    params.model.path = order["weights"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [order["key"]]
    params.n_ctx = order["context_window"]
    params.n_parallel = 1  # the whole window for each answer; the daemon asks for one at a time
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(1, len(os.sched_getaffinity(0)) - 1)
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.ui = False
    params.endpoint_slots = False
    params.sampling.temp, params.sampling.penalty_repeat = TEMPERATURE, REPEAT_PENALTY
    try:
        server = xllamacpp.Server(params)  # back once the weights are loaded; it serves while it is referenced
    except RuntimeError as error:
        # Not on stderr: the engine's own thread goes on logging there, after this or before it.
        print(json.dumps({"error": f"The engine could not load {order['weights']}: {error}"}), file=ready, flush=True)
        raise SystemExit(1) from error
    print(json.dumps({"url": server.listening_address}), file=ready, flush=True)
    while True:
        signal.pause()


def exit_when_stdin_closes() -> None:
    """Have the kernel end this process when the other end of stdin is closed."""
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    stdin = select.poll()
    stdin.register(0, select.POLLHUP)
    if stdin.poll(0):  # it was closed before the kernel was asked to tell
        raise SystemExit(0)


if __name__ == "__main__":
    main()
