"""The samples of a soak run, one for each second, and the verdict on them."""

from collections.abc import Sequence
from statistics import median

from msgspec import Struct

from walrusd.store.wal_checkpoint import MAX_OWN_WAL_BYTES

WARMUP_SHARE = 0.2
MIN_WARMUP_S = 60
"""Minimum seconds of warm-up, which is a fifth of the run.

By then pools, caches and the cache of idle sessions are full.
"""
MIN_DURATION_S = 3 * MIN_WARMUP_S
LEVEL_SHARE = 0.05
"""Share of the samples whose median is a level, after the warm-up and at the end."""
MAX_RSS_GROWTH = 1.1
MAX_FD_GROWTH = 8
"""Maximum number of additional descriptors.

They are for connections and for readers of the store, which open and close.
"""
MAX_WAL_MB = MAX_OWN_WAL_BYTES / 2**20


class SoakSample(Struct, frozen=True, kw_only=True):
    second: float
    turns: int
    rss_mb: float
    p50_ms: float
    """Latency of the turns that ended in the previous second."""
    p99_ms: float
    wal_mb: float
    db_mb: float
    fds: int
    tasks: int
    threads: int
    sessions_live: int
    sessions_open: int


class SoakVerdict(Struct, frozen=True, kw_only=True):
    good: bool
    text: str
    warm_s: float
    """The second at which the warm-up ends."""
    warm_rss_mb: float
    warm_fds: float


def judge(samples: Sequence[SoakSample]) -> SoakVerdict:
    """Compares the levels at the end with those after warm-up; needs at least MIN_DURATION_S samples."""
    few = max(1, int(LEVEL_SHARE * len(samples)))
    start = max(int(WARMUP_SHARE * len(samples)), MIN_WARMUP_S)
    warm, end = samples[start : start + few], samples[-few:]
    rss_then, rss = median(one.rss_mb for one in warm), median(one.rss_mb for one in end)
    grown = rss / rss_then
    fds_then, fds = median(one.fds for one in warm), median(one.fds for one in end)
    wal = max(one.wal_mb for one in samples)
    bars = {
        f"RSS {rss:.1f} MB, {grown:.2f} of {rss_then:.1f} when warm (≤ {MAX_RSS_GROWTH})": grown <= MAX_RSS_GROWTH,
        f"files {fds:.0f}, {fds_then:.0f} when warm (≤ {MAX_FD_GROWTH} more)": fds <= fds_then + MAX_FD_GROWTH,
        f"WAL at most {wal:.1f} MB (≤ {MAX_WAL_MB:.0f})": wal <= MAX_WAL_MB,
    }
    good = all(bars.values())
    results = "; ".join(f"{what}{'' if met else ' NOT MET'}" for what, met in bars.items())
    return SoakVerdict(
        good=good,
        text=f"{'good' if good else 'NOT GOOD'}: {samples[-1].turns:,} turns in {samples[-1].second:.0f} s; {results}",
        warm_s=samples[start].second,
        warm_rss_mb=rss_then,
        warm_fds=fds_then,
    )
