"""Handlers of the schedule.* methods: list, run, pause, resume, and the history of ticks."""

from functools import partial

from msgspec import convert

from walrus_protocol.events import Tick
from walrus_protocol.methods.schedule import (
    ScheduleInfo,
    ScheduleList,
    ScheduleParams,
    TickHistory,
    TickHistoryParams,
    TickInfo,
)
from walrus_protocol.param_types import NoParams
from walrusd.rpc.handlers.pagination import count_fitting, parse_cursor
from walrusd.rpc.request_context import RequestContext
from walrusd.rpc.routes import Routes
from walrusd.schedule.ledger import ScheduleState
from walrusd.schedule.scheduler import Scheduler


def routes(scheduler: Scheduler) -> Routes:
    return {
        "schedule.list": partial(list_schedules, scheduler),
        "schedule.run": partial(run, scheduler),
        "schedule.pause": partial(pause, scheduler),
        "schedule.resume": partial(resume, scheduler),
        "schedule.history": partial(history, scheduler),
    }


def list_schedules(scheduler: Scheduler, _: RequestContext, __: NoParams) -> ScheduleList:
    return ScheduleList(schedules=tuple(_to_schedule_info(scheduler, state) for state in scheduler.states()))


async def run(scheduler: Scheduler, _: RequestContext, params: ScheduleParams) -> TickInfo:
    """Runs a tick now; answers when it has ended. The tick continues if the client disconnects earlier."""
    return _to_tick_info(await scheduler.tick_now(params.schedule))


async def pause(scheduler: Scheduler, _: RequestContext, params: ScheduleParams) -> ScheduleInfo:
    return _to_schedule_info(scheduler, await scheduler.pause(params.schedule))


async def resume(scheduler: Scheduler, _: RequestContext, params: ScheduleParams) -> ScheduleInfo:
    return _to_schedule_info(scheduler, await scheduler.resume(params.schedule))


async def history(scheduler: Scheduler, _: RequestContext, params: TickHistoryParams) -> TickHistory:
    before = None if params.cursor is None else parse_cursor(params.cursor)
    found = await scheduler.history(params.schedule, before=before, news=params.news, limit=params.limit + 1)
    ticks = [_to_tick_info(tick) for tick in found]
    page = ticks[: count_fitting(ticks, params.limit)]
    return TickHistory(ticks=tuple(page), cursor=str(page[-1].tick) if len(ticks) > len(page) else None)


def _to_tick_info(tick: Tick) -> TickInfo:
    return convert(tick, TickInfo, from_attributes=True)


def _to_schedule_info(scheduler: Scheduler, state: ScheduleState) -> ScheduleInfo:
    job, row = state.job, state.row
    return ScheduleInfo(
        name=job.name,
        agent=job.agent,
        kind=job.kind,
        every_s=round(job.every_s, 6),
        next_slot=None if row.paused else row.next_slot,
        paused=row.paused,
        running=state.running,
        failures=row.failures,
        closed_until=scheduler.breaker_open_until(state),
        last=None if state.last_tick is None else _to_tick_info(state.last_tick),
    )
