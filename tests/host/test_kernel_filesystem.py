"""Tests of is_kernel_filesystem: files in /proc and /sys are recognised, stored files are not."""

import os
from pathlib import Path

import pytest

from walrusd.host.libc import is_kernel_filesystem


@pytest.mark.parametrize(
    ("path", "expected"), [("/proc/self/stat", True), ("/sys/kernel", True), ("/etc/passwd", False)]
)
def test_proc_and_sys_are_kernel_filesystems(path: str, expected: bool) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert is_kernel_filesystem(descriptor) is expected
    finally:
        os.close(descriptor)


def test_a_descriptor_that_is_not_open_is_an_error(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        is_kernel_filesystem(descriptor)
