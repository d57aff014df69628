"""Tests that recorded requests get the recorded replies, byte for byte: the wire has not changed."""

import json
from pathlib import Path

import walrusd
from tests.rpc.recorded_wire import FOLDER, REQUESTS, record
from walrus_protocol.methods import METHODS

NOT_RECORDED = {
    "rpc.discover",  # its definitions name Structs, which are not part of the wire
    "daemon.metrics",  # all its values differ from run to run
    "daemon.shutdown",  # ends the recording
    "session.import",  # needs the document of session.export; tests/rpc/test_export_import.py tests it
    "schedule.pause",
    "schedule.resume",
    "schedule.history",  # like schedule.run, which is recorded for a schedule that does not exist
}


def test_the_recorded_requests_get_the_recorded_replies(tmp_path: Path) -> None:
    recorded = (FOLDER / f"{walrusd.__version__}.jsonl").read_text().splitlines()
    current = record(tmp_path)
    assert len(current) == len(recorded)
    for then, now in zip(recorded, current, strict=True):
        assert json.loads(now) == json.loads(then), "`python -m tests.rpc.recorded_wire` records a new release"


def test_every_method_is_recorded_or_has_a_reason_not_to_be() -> None:
    assert {method for method, _ in REQUESTS} | NOT_RECORDED == {*METHODS, "session.nonsense"}
