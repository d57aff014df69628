"""The wire is what it was: the requests that were recorded get, byte for byte, the replies that were recorded."""

import json
from pathlib import Path

import walrusd
from tests.rpc.recorded_wire import FOLDER, REQUESTS, record
from walrus_protocol.methods import METHODS

NOT_RECORDED = {
    "rpc.discover",  # its definitions name Structs, which are not part of the wire
    "daemon.metrics",  # all of it differs from run to run
    "daemon.shutdown",  # ends the recording
    "session.import",  # takes the document that session.export made; tests/rpc/test_export_import.py has it
    "schedule.pause",
    "schedule.resume",
    "schedule.history",  # as schedule.run, which is recorded for a schedule that does not exist
}


def test_the_recorded_requests_get_the_recorded_replies(tmp_path: Path) -> None:
    recorded = (FOLDER / f"{walrusd.__version__}.jsonl").read_text().splitlines()
    found = record(tmp_path)
    assert len(found) == len(recorded)
    for then, now in zip(recorded, found, strict=True):
        assert json.loads(now) == json.loads(then), "python -m tests.rpc.recorded_wire records it for a new release"


def test_every_method_is_recorded_or_left_out_for_a_reason() -> None:
    assert {method for method, _ in REQUESTS} | NOT_RECORDED == {*METHODS, "session.nonsense"}
