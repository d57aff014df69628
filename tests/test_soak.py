"""Tests of the verdict on a soak run: which samples pass and which fail."""

import pytest
from msgspec.structs import replace

from benchmarks.soak_samples import MAX_WAL_MB, SoakSample, judge

STEADY = [
    SoakSample(
        second=second,
        turns=200 * second,
        rss_mb=min(50.0 + second, 64.0),
        p50_ms=2.0,
        p99_ms=9.0,
        wal_mb=4.0,
        db_mb=0.2 * second,
        fds=37 + second % 3,
        tasks=60,
        threads=5,
        sessions_live=256,
        sessions_open=500,
    )
    for second in range(1, 201)
]


def test_levels_that_are_flat_after_warm_up_pass() -> None:
    verdict = judge(STEADY)
    assert (verdict.good, verdict.warm_s, verdict.warm_rss_mb) == (True, 61, 64.0)
    assert verdict.text.startswith("good: 40,000 turns in 200 s; RSS 64.0 MB, 1.00 of 64.0")


@pytest.mark.parametrize(
    ("leaking", "expected"),
    [
        ([replace(one, rss_mb=50 + one.second / 8) for one in STEADY], "RSS 74.4 MB, 1.28 of 58.2"),
        ([replace(one, fds=37 + int(one.second / 5)) for one in STEADY], "files 76, 50 when warm"),
        ([replace(one, wal_mb=MAX_WAL_MB + (one.second == 50)) for one in STEADY], "WAL at most 17.0 MB"),
    ],
)
def test_a_level_that_keeps_growing_is_named(leaking: list[SoakSample], expected: str) -> None:
    verdict = judge(leaking)
    assert not verdict.good
    [not_met] = [part for part in verdict.text.split("; ") if "NOT MET" in part]
    assert not_met.startswith(expected)
