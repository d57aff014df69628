"""Reads data from the kernel: the machine, a folder's disk, and the time and memory of a process."""

import os
import platform
import time
from pathlib import Path
from statistics import median

TICK = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Returns user and system seconds of a process with all its threads, to 10 ms."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    fields = stat[stat.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def cpu_ns(pid: int) -> int:
    """Returns the CPU time of all threads in nanoseconds, as the scheduler counts it."""
    return sum(int(schedstat.read_text().split()[0]) for schedstat in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def wake_ups(pid: int) -> int:
    """Returns how often the threads of a process have gone to sleep; each time follows a wake-up."""
    counts = [
        line.split()[1]
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for line in status.read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    ]
    return sum(map(int, counts))


def rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"process {pid} has no VmRSS: it has ended")


def disk(folder: Path) -> str:
    """Returns the type and the device of the file system that contains a folder."""
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        device, at, kind, *_ = line.split()
        if folder.is_relative_to(at) and len(at) >= len(best[0]):
            best = (at, f"{kind} on {device}")
    return best[1]


def sync_s(folder: Path) -> float:
    """Returns the median seconds of an fdatasync of one page: the minimum cost of a commit."""
    path = folder / "sync"
    times = []
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        for _ in range(100):
            os.pwrite(descriptor, os.urandom(4096), 0)
            began = time.perf_counter()
            os.fdatasync(descriptor)
            times.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
        path.unlink()
    return median(times)


def describe(folder: Path) -> dict[str, str]:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "unknown",
    )
    return {
        "cpu": f"{os.cpu_count()} of {model}",
        "python": platform.python_version(),
        "kernel": platform.release(),
        "disk": f"{disk(folder)}, fdatasync of a page {sync_s(folder) * 1000:.2f} ms",
        "load": load(),
    }


def load() -> str:
    return " ".join(f"{value:.2f}" for value in os.getloadavg())
