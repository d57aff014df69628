"""The engine of a local model, as a separate process: `python -m walrusd.providers.local_server`.

It reads one line of JSON on stdin with the weights to load, and writes one line to stdout: its URL, or an error. The
engine logs to stderr. It serves the OpenAI wire on loopback to clients that have the key. It imports nothing of
walrusd.

It exits when its stdin is closed, so it ends with the daemon, however the daemon ends. The kernel ends it with SIGIO,
whose default action is to terminate: while the engine loads a model it holds the GIL for seconds, and no Python code
could react. The parent-death signal that the daemon requests has the same effect on systems that have one.
"""

import fcntl
import json
import os
import select
import signal
import sys

PROMPT_CACHE_MIB = 256
"""MiB of the prompt cache; the engine's own default of 8 GiB is too much for a background daemon."""
TEMPERATURE = 0.2
"""The sampling temperature that the authors of SmolLM2 recommend.

At the engine's 0.8 a small model soon becomes incoherent.
"""
REPEAT_PENALTY = 1.1
"""The repeat penalty.

At the engine's 1.0 the same model repeated itself until the cut-off in half of its stories.
"""


def main() -> None:
    options = json.loads(sys.stdin.buffer.readline())
    exit_when_stdin_closes()
    os.nice(10)
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output that the engine prints to stdout goes to its log

    import xllamacpp  # imported late: from here on SIGIO can end the process

    params = xllamacpp.CommonParams()
    params.model.path = options["weights"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [options["key"]]
    params.n_ctx = options["context_window"]
    params.n_parallel = 1  # the daemon sends one request at a time, which has the whole window
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(1, len(os.sched_getaffinity(0)) - 1)
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.ui = False
    params.endpoint_slots = False
    params.sampling.temp, params.sampling.penalty_repeat = TEMPERATURE, REPEAT_PENALTY
    try:
        server = xllamacpp.Server(params)  # returns when the weights are loaded; serves while referenced
    except RuntimeError as error:
        # Not on stderr: the engine's own thread still logs there, before or after this.
        print(
            json.dumps({"error": f"The engine could not load {options['weights']}: {error}"}), file=report, flush=True
        )
        raise SystemExit(1) from error
    print(json.dumps({"url": server.listening_address}), file=report, flush=True)
    while True:
        signal.pause()


def exit_when_stdin_closes() -> None:
    """Makes the kernel end this process when stdin is closed; exits at once if it is closed already."""
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    stdin = select.poll()
    stdin.register(0, select.POLLHUP)
    if stdin.poll(0):  # it was closed before SIGIO was requested
        raise SystemExit(0)


if __name__ == "__main__":
    main()
