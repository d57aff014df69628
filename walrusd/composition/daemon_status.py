"""What the daemon reports about itself: its identity, its status, its gauges and its warnings."""

import os
import time
from collections.abc import Iterator

import trio

from walrus_protocol.methods.daemon import Hello, SessionCounts, Status
from walrus_protocol.wire import PROTOCOL
from walrusd import __version__
from walrusd.composition.components import Components, StartupOptions
from walrusd.host.procfs import read_process_stats
from walrusd.host.resource_limits import connection_limit_warning
from walrusd.observability.metrics import Gauges
from walrusd.store.tables.session import read_open_session_count


class DaemonStatus:
    """Reads the state of a running daemon; it changes nothing."""

    def __init__(
        self, options: StartupOptions, components: Components, stop: trio.Event, *, max_connections: int
    ) -> None:
        self._options = options
        self._components = components
        self._stop = stop
        self._limit_warning = connection_limit_warning(max_connections, options.config.daemon.max_connections)

    def identify(self) -> Hello:
        return Hello(
            protocol=PROTOCOL,
            version=__version__,
            pid=os.getpid(),
            home=self._options.config.home,
            uptime_s=self._uptime_s(),
        )

    async def read_status(self) -> Status:
        """Raises StorageFailed."""
        components, gauges = self._components, await self.read_gauges()
        return Status(
            version=__version__,
            pid=os.getpid(),
            uptime_s=gauges.uptime_s,
            home=self._options.config.home,
            sessions=SessionCounts(
                open=gauges.sessions_open, live=gauges.sessions_live, running=gauges.sessions_running
            ),
            agents=tuple(agent.name for agent in components.runtime.agents()),
            providers=components.models.active.status(),
            schedule=components.scheduler.names,
            rss_bytes=gauges.rss_bytes,
            fds=gauges.fds,
            tasks=gauges.tasks,
            threads=gauges.threads,
            children=gauges.children,
            connections=gauges.connections,
            warnings=self.warnings(),
        )

    async def read_gauges(self) -> Gauges:
        """Measures the current values of all gauges. Raises StorageFailed."""
        runtime, sizes = self._components.runtime, self._components.store.file_sizes()
        sessions_open = await runtime.log.read(read_open_session_count)
        process = await trio.to_thread.run_sync(read_process_stats)
        return Gauges(
            uptime_s=self._uptime_s(),
            sessions_open=sessions_open,
            sessions_live=len(runtime.session_cache),
            sessions_running=runtime.running_turns,
            connections=self._components.metrics.open_connections,
            rss_bytes=process.rss_bytes,
            fds=process.fds,
            tasks=trio.lowlevel.current_statistics().tasks_living,
            threads=process.threads,
            children=process.children,
            db_bytes=sizes.db_bytes,
            wal_bytes=sizes.wal_bytes,
            live_event_counts=runtime.global_stream.live_event_counts,
        )

    def warnings(self) -> tuple[str, ...]:
        return (*self._current_warnings(), *self._components.active.warnings, *self._limit_warning)

    def _current_warnings(self) -> Iterator[str]:
        """Yields the warnings about the current state, which may change at any time."""
        components, active = self._components, self._components.active
        if self._stop.is_set():
            grace_s = active.config.daemon.shutdown_grace_s
            yield f"walrusd is stopping. Running turns have {grace_s:g} s to finish, then they are suspended."
        if suspended := components.runtime.suspended_sessions():
            numbers = ", ".join(map(str, suspended[:10]))
            yield f"The log cannot be written, so turns are suspended in session {numbers}. Is the disk full?"
        elif warning := components.store.write_warning:
            yield warning
        if error := active.last_error:
            first, *more = error.split("\n")
            others = f" (and {len(more)} more)" if more else ""
            yield (
                f"The last reload failed, and the old configuration is active: {first}{others}. "
                "Fix it and reload again."
            )
        yield from components.scheduler.warnings()
        yield from components.retention.warnings()

    def _uptime_s(self) -> float:
        """Returns the seconds since the start of the process."""
        return time.monotonic() - self._options.started_at
