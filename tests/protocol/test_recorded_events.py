"""Events as each release wrote them can still be read, and lose nothing by it."""

import json
from typing import get_args

import pytest

import walrusd
from tests.protocol.recorded_events import FOLDER, instances
from walrus_protocol.content import EventType
from walrus_protocol.events import NewerEvent, decode, encode

RELEASES = sorted(path.stem for path in FOLDER.glob("*.jsonl"))


def recorded(release: str) -> list[bytes]:
    return (FOLDER / f"{release}.jsonl").read_bytes().splitlines()


@pytest.mark.parametrize("release", RELEASES)
def test_every_recorded_event_is_read_with_all_its_fields(release: str) -> None:
    for body in recorded(release):
        event = decode(body)
        assert not isinstance(event, NewerEvent), body
        fields = json.loads(body)
        again = json.loads(encode(event))
        assert {name: again.get(name) for name in fields} == fields


def test_this_release_writes_the_bytes_that_were_recorded_for_it() -> None:
    """A difference is a change of the wire and of the log.

    Record it for a new release, never over an old one.
    """
    assert [encode(event) for event in instances()] == recorded(walrusd.__version__)


def test_every_event_type_is_recorded() -> None:
    types = {json.loads(body)["type"] for body in recorded(walrusd.__version__)}
    assert set(get_args(EventType)) <= types
