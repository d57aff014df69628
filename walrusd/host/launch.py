"""Starts a child process behind a start barrier. It blocks: only the spawner's thread calls it.

Each child is first a tiny shell that waits for a line on its stdin. When the line arrives, it execs the requested
program. If stdin ends without a line, because walrusd has died, the shell exits without any effect. So a process is
known, and can be recorded, before it does anything.
"""

import errno
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from typing import Literal

from msgspec import Struct

from walrus_protocol.events import ProcessGroupId
from walrusd.host.procfs import boot_id, read_proc

NOT_RELEASED_STATUS = 125
"""Exit status of a child whose start barrier was never released."""
_START_BARRIER = f"read -r WALRUS_GATE || exit {NOT_RELEASED_STATUS}; "
"""Shell code of the start barrier.

`read` stops at the end of the line, so the program receives the rest of stdin. The shell adds PWD to the environment,
as all shells do.
"""
_PARENT_CHECK = f'[ "$PPID" = {{parent}} ] || exit {NOT_RELEASED_STATUS}; '
"""Shell code that stops a child whose setpriv asked for the death signal only after walrusd had died.

That signal never comes. A shell reads its parent's pid once, when it starts, which is after setpriv has asked.
"""
SHELL = "/bin/sh"
BARRIER_SCRIPTS = {"null": _START_BARRIER + 'exec "$@" </dev/null', "pipe": _START_BARRIER + 'exec "$@"'}
_HINTS = {
    errno.E2BIG: "Put long text into a file and pass its name.",
    errno.EAGAIN: "End other processes, or raise the process limit: `ulimit -u`, or TasksMax= of the service.",
    errno.ENOMEM: "End other processes: there is no memory for one more.",
    errno.EMFILE: "Raise `ulimit -n`, or LimitNOFILE= of the service.",
    errno.ENFILE: "Close other programs: the machine has too many files open.",
}


class SpawnFailed(Exception):
    """A process could not be started. `hint` is advice for a person; it may be empty."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class SpawnRequest(Struct, frozen=True, kw_only=True):
    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str]
    stdin: Literal["null", "pipe"]
    stderr: Literal["merged", "pipe"]
    umask: int


class SpawnedProcess(Struct, frozen=True, kw_only=True):
    """A process behind its start barrier, the leader of its own session and group.

    The caller closes the descriptors.
    """

    popen: subprocess.Popen[bytes]
    pidfd: int
    process: ProcessGroupId
    start_barrier: int
    """The write end of its stdin: writing a line releases the barrier."""
    takes_input: bool
    """Whether the program reads what follows that line."""
    output: int
    stderr: int | None


@cache
def find_pdeathsig_command() -> tuple[str, ...]:
    """Returns the prefix of a command that the kernel shall kill when our thread ends.

    Returns () if setpriv is missing or does not have the option. Code between fork and exec could request the same from
    the kernel. That is not safe beside other threads: it might wait for a lock whose owner does not exist in the child.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ()
    prefix = (setpriv, "--pdeathsig", "KILL")
    tried = subprocess.run([*prefix, SHELL, "-c", ":"], stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603 - a path and constants
    return prefix if tried.returncode == 0 else ()  # busybox's setpriv does not have the option


def launch(request: SpawnRequest) -> SpawnedProcess:
    """Starts the process and returns it. Raises SpawnFailed.

    If it will die with our thread, it exits without running the program if this process has ended before its shell
    starts.
    """
    try:
        _check_program(request)
        # A file system that hangs must hang here, and not between fork and exec, where it would block all threads.
        os.stat(request.cwd)
        return _launch(request, find_pdeathsig_command())
    except (OSError, ValueError) as error:
        raise _describe_failure(request, error) from error


def _launch(request: SpawnRequest, prefix: Sequence[str]) -> SpawnedProcess:
    script = (_PARENT_CHECK.format(parent=os.getpid()) if prefix else "") + BARRIER_SCRIPTS[request.stdin]
    with ExitStack() as child_ends, ExitStack() as our_ends:
        stdin, start_barrier = _open_pipe(child_ends, our_ends)
        output, stdout = _open_pipe(our_ends, child_ends)
        errors, stderr = _open_pipe(our_ends, child_ends) if request.stderr == "pipe" else (None, subprocess.STDOUT)
        popen = subprocess.Popen(  # noqa: S603 - the tool pipeline has permitted the command
            [*prefix, SHELL, "-c", script, SHELL, *request.argv],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=request.cwd,
            env=request.env,
            umask=request.umask,
            start_new_session=True,
        )
        our_ends.callback(popen.wait)
        our_ends.callback(popen.kill)
        pidfd = os.pidfd_open(popen.pid)
        our_ends.callback(os.close, pidfd)
        info = read_proc(popen.pid)
        if info is None:  # it is our child and not reaped, so a missing descriptor is the only possible reason
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        process = ProcessGroupId(pgid=popen.pid, start=info.start, boot=boot_id())
        our_ends.pop_all()
        return SpawnedProcess(
            popen=popen,
            pidfd=pidfd,
            process=process,
            start_barrier=start_barrier,
            takes_input=request.stdin == "pipe",
            output=output,
            stderr=errors,
        )


def _open_pipe(reader_stack: ExitStack, writer_stack: ExitStack) -> tuple[int, int]:
    """Opens a pipe and returns its read end and its write end; each stack closes one of them."""
    read, write = os.pipe()
    reader_stack.callback(os.close, read)
    writer_stack.callback(os.close, write)
    return read, write


def _check_program(request: SpawnRequest) -> None:
    """Checks that the program can be executed. Raises SpawnFailed and OSError.

    The shell would fail too, but only after the barrier was released.
    """
    name = request.argv[0]
    if "/" not in name:
        if shutil.which(name, path=request.env.get("PATH", os.defpath)) is None:
            raise SpawnFailed(f"There is no program called {name}.", "Install it, or add its folder to PATH.")
        return
    file = os.path.join(request.cwd, name)
    os.stat(file)
    if os.path.isdir(file) or not os.access(file, os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), file)


def _describe_failure(request: SpawnRequest, error: OSError | ValueError) -> SpawnFailed:
    problem = f"{request.argv[0][:100]!r} could not be started"
    if isinstance(error, ValueError):
        return SpawnFailed(
            f"{problem}: {error}.", "Remove NUL characters from the arguments, the environment and the folder."
        )
    reason = (error.strerror or str(error)).lower()
    if error.errno in _HINTS or error.filename is None:
        return SpawnFailed(f"{problem}: {reason}.", _HINTS.get(error.errno or 0, ""))
    hint = f"Check that {error.filename} exists and that you have permission to use it."
    return SpawnFailed(f"{problem}: {error.filename}: {reason}.", hint)
