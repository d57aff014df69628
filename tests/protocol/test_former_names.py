"""Names of the last release can still be imported; they are removed after the next one, with this test."""

from importlib import import_module

import pytest

FORMER_NAMES = {
    "content": ["TickedBy", "ExpiredBy"],
    "methods": ["Created", "Attached", "Waited", "Interrupted", "Closed", "ConfigText", "ConfigVerdict"],
    "branches": [
        "ForkParams",
        "Forked",
        "RewindParams",
        "WentBack",
        "CheckpointParams",
        "CheckpointMade",
        "CheckpointsParams",
        "CheckpointInfo",
        "CheckpointList",
    ],
    "housekeeping": [
        "Pong",
        "HelloParams",
        "Hello",
        "SessionCounts",
        "ProviderStatus",
        "Status",
        "MetricsParams",
        "Metrics",
        "Reloaded",
        "GcParams",
        "Collected",
        "Stopping",
    ],
    "portable": ["ExportParams", "Exported", "ImportParams", "Imported", "Described", "KeptOutput", "UsedKey"],
    "schedules": ["ScheduleParams", "TickInfo", "ScheduleInfo", "ScheduleList", "TickHistoryParams", "TickHistory"],
    "searching": ["SearchParams", "Hit", "Hits"],
    "watching": ["SubscribeParams", "Subscribed"],
    "wire": ["exit_of_error", "exit_of_turn", "Frames"],
    "messages": ["Refusal"],
}


@pytest.mark.parametrize("module", FORMER_NAMES)
def test_the_former_names_of_a_module_can_still_be_imported(module: str) -> None:
    found = import_module(f"walrus_protocol.{module}")
    assert [name for name in FORMER_NAMES[module] if not hasattr(found, name)] == []
