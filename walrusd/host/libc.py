"""Functions of the C library that Python 3.11 does not have: prctl, fstatfs, and the caller of any other."""

import ctypes
import os

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_KERNEL_FILESYSTEM_MAGIC = frozenset(
    {
        0x9FA0,  # proc: environments and memory of processes, secrets among them
        0x62656572,  # sysfs
        0x27E0EB,  # cgroup
        0x63677270,  # cgroup2
        0x62656570,  # configfs
        0x64626720,  # debugfs
        0x74726163,  # tracefs
        0x73636673,  # securityfs
        0xCAFE4A11,  # bpf
    }
)
"""Type numbers of statfs(2)."""


def call_libc(name: str, *args: object) -> int:
    """Calls a function of the C library that returns -1 to report an error. Raises OSError."""
    result: int = getattr(ctypes.CDLL(None, use_errno=True), name)(*args)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    return result


def set_undumpable() -> None:
    """Forbids processes of the same user to read our memory and environment, and disables core dumps."""
    call_libc("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)


def set_child_subreaper() -> None:
    """Makes this process the parent of every orphaned descendant. The process must then reap them."""
    call_libc("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def is_kernel_filesystem(fd: int) -> bool:
    """Returns whether the kernel generates the content of the file, as in /proc. Raises OSError.

    A file tool must not read such a file.
    """
    answer = (ctypes.c_long * 64)()  # struct statfs begins with its type and is far smaller than this
    call_libc("fstatfs", fd, answer)
    return answer[0] in _KERNEL_FILESYSTEM_MAGIC
