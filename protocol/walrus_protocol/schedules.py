"""The former name of methods.schedule: an alias for one release, then it is removed (see CHANGELOG.md)."""

from walrus_protocol.methods.schedule import ScheduleInfo as ScheduleInfo
from walrus_protocol.methods.schedule import ScheduleList as ScheduleList
from walrus_protocol.methods.schedule import ScheduleParams as ScheduleParams
from walrus_protocol.methods.schedule import TickHistory as TickHistory
from walrus_protocol.methods.schedule import TickHistoryParams as TickHistoryParams
from walrus_protocol.methods.schedule import TickInfo as TickInfo

__all__ = ["ScheduleInfo", "ScheduleList", "ScheduleParams", "TickHistory", "TickHistoryParams", "TickInfo"]
