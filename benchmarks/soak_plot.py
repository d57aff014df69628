"""Draws the plot of a soak run: one chart for each quantity over the same time axis.

A chart shows the limit of its quantity if there is one.
"""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from benchmarks.soak_samples import MAX_FD_GROWTH, MAX_RSS_GROWTH, MAX_WAL_MB, SoakSample, SoakVerdict

INK, SOFT, LIMIT, GOOD = "#1f4e79", "#6fa8dc", "#b03a2e", "#2e7d32"
HEADROOM = 1.25
"""Factor of the axis height to the highest value; leaves space for a limit and its label."""


def draw(samples: Sequence[SoakSample], verdict: SoakVerdict, path: Path) -> None:
    figure = Figure(figsize=(11, 11.5), layout="constrained")
    memory, latency, wal, files, sessions = figure.subplots(5, 1, sharex=True)
    _plot_fields(memory, "memory [MB]", samples, rss_mb=("RSS", INK))
    _draw_limit(memory, samples, MAX_RSS_GROWTH * verdict.warm_rss_mb, f"limit: {MAX_RSS_GROWTH} of RSS after warm-up")
    _plot_fields(wal, "write-ahead log [MB]", samples, wal_mb=("WAL", INK))
    _draw_limit(wal, samples, MAX_WAL_MB, f"limit: {MAX_WAL_MB:.0f} MB, where the store always truncates it")
    _plot_fields(files, "count", samples, fds=("open files", INK), threads=("threads", SOFT))
    _draw_limit(
        files, samples, verdict.warm_fds + MAX_FD_GROWTH, f"limit: {MAX_FD_GROWTH} files more than after warm-up"
    )
    _plot_fields(sessions, "sessions", samples, sessions_open=("open", SOFT), sessions_live=("in memory", INK))
    _plot_fields(latency, "a turn, send to answer [ms]", samples, p99_ms=("p99", SOFT), p50_ms=("p50", INK))
    latency.set_yscale("log")
    latency.set_ylim(0.7 * min(one.p50_ms for one in samples), 2 * max(one.p99_ms for one in samples))
    latency.yaxis.set_major_formatter(ScalarFormatter())
    for axes in (memory, latency, wal, files, sessions):
        axes.grid(alpha=0.3)
        axes.axvspan(0, verdict.warm_s, color="0.94", zorder=0)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderpad=0)
    memory.text(verdict.warm_s / 2, 0, "warming up", ha="center", va="bottom", color="0.4")
    sessions.set_xlabel("time since the start of the load [s]")
    sessions.set_xlim(0, samples[-1].second)
    head, _, bars = verdict.text.partition("; ")
    figure.suptitle(f"walrusd under load: {head}\n{bars}", fontsize=11, color=GOOD if verdict.good else LIMIT)
    figure.savefig(path, dpi=110)


def _plot_fields(axes: Axes, title: str, samples: Sequence[SoakSample], **lines: tuple[str, str]) -> None:
    """Plots some fields of the samples as lines, each with its label and colour."""
    for field, (label, colour) in lines.items():
        axes.plot([one.second for one in samples], [getattr(one, field) for one in samples], color=colour, label=label)
    axes.set_ylabel(title)
    axes.set_ylim(0, HEADROOM * max(getattr(one, field) for one in samples for field in lines))


def _draw_limit(axes: Axes, samples: Sequence[SoakSample], at: float, label: str) -> None:
    axes.axhline(at, color=LIMIT, linestyle="--", linewidth=1)
    axes.set_ylim(0, max(HEADROOM * at, axes.get_ylim()[1]))
    axes.annotate(
        label,
        (samples[-1].second, at),
        (-4, 3),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=LIMIT,
        fontsize="small",
    )
