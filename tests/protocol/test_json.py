"""Tests of JSON decoding: its errors have a reason, and do not depend on the version of msgspec."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from walrus_protocol.events import decode as decode_event
from walrus_protocol.json import BadJson, Decoder, decode


class Coordinate(Struct):
    x: int
    label: str = ""
    rest: msgspec.Raw = msgspec.Raw(b"{}")


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"x":1,"label":"\xff"}', "utf8"),
        (b'{"x":"\xff"}', "utf8"),
        (b'{"\xff":1}', "utf8"),
        (b'{"unknown":"\xff"}', "utf8"),
        (b"\xff", "utf8"),
        (b'{"x":1} \xff', "utf8"),
        ('{"x":1,"label":"\ud800"}', "utf8"),
        (b"", "syntax"),
        (b'{"x":', "syntax"),
        (b'{"x":1} 2', "syntax"),
        (b'{"x":1,"label":"\\ud800"}', "syntax"),
        (b'{"x":NaN}', "syntax"),
        (b'{"x":"one"}', "schema"),
        (b'{"label":"no x"}', "schema"),
        (b"[]", "schema"),
        (b"null", "schema"),
        (b'{"x":1,"unknown":' + DEEP + b"}", "depth"),
    ],
)
def test_every_failure_is_bad_json_with_its_reason(data: bytes | str, reason: str) -> None:
    for read in (Decoder(Coordinate).decode, lambda data: decode(data, Coordinate)):
        with pytest.raises(BadJson) as caught:
            read(data)
        assert caught.value.reason == reason


@given(st.binary() | st.text(st.characters(codec=None)))
def test_only_bad_json_is_raised_for_any_bytes(data: bytes | str) -> None:
    anything: Decoder[object] = Decoder(object)
    with suppress(BadJson):
        anything.decode(data)


def test_bad_json_has_the_original_error_as_its_cause() -> None:
    with pytest.raises(BadJson) as caught:
        decode(b'{"x":"one"}', Coordinate)
    assert isinstance(caught.value.__cause__, msgspec.ValidationError)
    assert str(caught.value) == str(caught.value.__cause__)


@pytest.mark.parametrize("body", [b'{"type":"done","turn":"x"}', b'{"type":"newer","ts":"late"}', b'{"ts":1}', b"[]"])
def test_an_event_of_another_shape_is_bad_json(body: bytes) -> None:
    with pytest.raises(BadJson):
        decode_event(body)
