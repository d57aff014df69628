"""schedule.*: what is done by the clock, and its ledger."""

from msgspec import convert

from walrus_protocol.events import Tick
from walrus_protocol.fields import NoParams
from walrus_protocol.schedules import (
    ScheduleInfo,
    ScheduleList,
    ScheduleParams,
    TickHistory,
    TickHistoryParams,
    TickInfo,
)
from walrusd.rpc.call import Call, House
from walrusd.rpc.handlers.paging import fitting, position
from walrusd.schedule.ledger import Standing


def list_schedules(house: House, _: NoParams) -> ScheduleList:
    return ScheduleList(schedules=tuple(_shown(house, standing) for standing in house.schedules.standing()))


async def run(call: Call, params: ScheduleParams) -> TickInfo:
    """Answered when the tick has ended; who asked may go before that."""
    return _told(await call.house.schedules.tick_now(params.schedule))


async def pause(call: Call, params: ScheduleParams) -> ScheduleInfo:
    return _shown(call.house, await call.house.schedules.pause(params.schedule))


async def resume(call: Call, params: ScheduleParams) -> ScheduleInfo:
    return _shown(call.house, await call.house.schedules.resume(params.schedule))


async def history(call: Call, params: TickHistoryParams) -> TickHistory:
    before = None if params.cursor is None else position(params.cursor)
    found = await call.house.schedules.history(params.schedule, before=before, news=params.news, limit=params.limit + 1)
    ticks = [_told(tick) for tick in found]
    page = ticks[: fitting(ticks, params.limit)]
    return TickHistory(ticks=tuple(page), cursor=str(page[-1].tick) if len(ticks) > len(page) else None)


def _told(tick: Tick) -> TickInfo:
    return convert(tick, TickInfo, from_attributes=True)


def _shown(house: House, standing: Standing) -> ScheduleInfo:
    job, row = standing.job, standing.row
    return ScheduleInfo(
        name=job.name,
        agent=job.agent,
        kind=job.kind,
        every_s=round(job.every_s, 6),
        next_slot=None if row.paused else row.next_slot,
        paused=row.paused,
        running=standing.running,
        failures=row.failures,
        closed_until=house.schedules.open_until(standing),
        last=None if standing.last is None else _told(standing.last),
    )
