"""One child: an order becomes a process that waits behind its gate, or a SpawnFailed. Blocks; the spawner's thread
is where it belongs.

Whoever is started is first a tiny shell that waits for a line on its stdin. With the line it execs what was ordered;
if its stdin ends without one, because walrusd has gone, it ends without any effect. So a process is known, and can be
written down, before it does anything.
"""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Literal

from msgspec import Struct

from walrus_protocol.events import ProcessGroupId
from walrusd.host.procfs import boot_id, read_proc

NOT_RELEASED_STATUS = 125
"""The exit status of a child whose gate was never opened."""
_START_BARRIER = f"read -r WALRUS_GATE || exit {NOT_RELEASED_STATUS}; "
"""A shell reads no further than the line's end, so what follows on stdin is the program's. It adds PWD to the
environment, as shells do."""
SHELL = "/bin/sh"
BARRIER_SCRIPTS = {"null": _START_BARRIER + 'exec "$@" </dev/null', "pipe": _START_BARRIER + 'exec "$@"'}
_HINTS = {
    errno.E2BIG: "Put long text into a file and pass its name.",
    errno.EAGAIN: "End other processes, or raise their number: `ulimit -u`, or TasksMax= of the service.",
    errno.ENOMEM: "End other processes: there is no memory for one more.",
    errno.EMFILE: "Raise `ulimit -n`, or LimitNOFILE= of the service.",
    errno.ENFILE: "Close other programs: the machine has too many files open.",
}


class SpawnFailed(Exception):
    """A process could not be started, for a reason that a person can mend."""

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
    """A process behind its gate: the leader of a session and a group of its own. The descriptors are ours to close."""

    popen: subprocess.Popen[bytes]
    pidfd: int
    process: ProcessGroupId
    start_barrier: int
    """The other end of its stdin: a line opens the gate."""
    takes_input: bool
    """What follows that line is for the program."""
    output: int
    stderr: int | None


def find_pdeathsig_command() -> tuple[str, ...]:
    """The command that lets the kernel kill what it execs when our thread ends; none where there is no such command.

    A function between fork and exec could ask for the same, but not beside other threads: it might wait for a lock
    that nobody is left to release.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ()
    prefix = (setpriv, "--pdeathsig", "KILL")
    tried = subprocess.run([*prefix, SHELL, "-c", ":"], stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603 - a path and constants
    return prefix if tried.returncode == 0 else ()  # that of busybox does not know the option


def launch(request: SpawnRequest, find_prefix: Callable[[], Sequence[str]]) -> SpawnedProcess:
    """`prefix` finds a command that execs what follows it. Raises SpawnFailed."""
    try:
        _check_program(request)
        os.stat(
            request.cwd
        )  # a file system that hangs does so here, and not between fork and exec, where all would wait
        return _launch(request, find_prefix())
    except (OSError, ValueError) as error:
        raise _describe_failure(request, error) from error


def _launch(request: SpawnRequest, prefix: Sequence[str]) -> SpawnedProcess:
    with ExitStack() as theirs, ExitStack() as ours:
        stdin, gate = _open_pipe(theirs, ours)
        output, stdout = _open_pipe(ours, theirs)
        errors, stderr = _open_pipe(ours, theirs) if request.stderr == "pipe" else (None, subprocess.STDOUT)
        popen = subprocess.Popen(  # noqa: S603 - what is run was decided by the gates of the pipeline
            [*prefix, SHELL, "-c", BARRIER_SCRIPTS[request.stdin], SHELL, *request.argv],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=request.cwd,
            env=request.env,
            umask=request.umask,
            start_new_session=True,
        )
        ours.callback(popen.wait)
        ours.callback(popen.kill)
        pidfd = os.pidfd_open(popen.pid)
        ours.callback(os.close, pidfd)
        if (
            seen := read_proc(popen.pid)
        ) is None:  # it is our child and not reaped, so there is nothing else to be wrong
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        process = ProcessGroupId(pgid=popen.pid, start=seen.start, boot=boot_id())
        ours.pop_all()
        return SpawnedProcess(
            popen=popen,
            pidfd=pidfd,
            process=process,
            start_barrier=gate,
            takes_input=request.stdin == "pipe",
            output=output,
            stderr=errors,
        )


def _open_pipe(reader_stack: ExitStack, writer_stack: ExitStack) -> tuple[int, int]:
    """Its end to read from and its end to write to, each closed by the stack of whom it is for."""
    read, write = os.pipe()
    reader_stack.callback(os.close, read)
    writer_stack.callback(os.close, write)
    return read, write


def _check_program(request: SpawnRequest) -> None:
    """The shell behind the gate would say it too, but only when the gate is open, and to nobody who could tell."""
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
    what = f"{request.argv[0][:100]!r} could not be started"
    if isinstance(error, ValueError):
        return SpawnFailed(f"{what}: {error}.", "Arguments, environment and folder are text without NUL characters.")
    why = (error.strerror or str(error)).lower()
    if error.errno in _HINTS or error.filename is None:
        return SpawnFailed(f"{what}: {why}.", _HINTS.get(error.errno or 0, ""))
    return SpawnFailed(f"{what}: {error.filename}: {why}.", f"Check that {error.filename} is there and may be used.")
