"""Recognises the kernel's pseudo file systems (/proc, /sys …), which a file tool must not read."""

import ctypes
import os

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


def is_kernel_filesystem(fd: int) -> bool:
    """Returns whether the kernel generates the content of the file, as in /proc. Raises OSError."""
    answer = (ctypes.c_long * 64)()  # struct statfs begins with its type and is far smaller than this
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fstatfs(fd, answer) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer[0] in _KERNEL_FILESYSTEM_MAGIC
