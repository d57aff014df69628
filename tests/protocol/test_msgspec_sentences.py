"""Tests of the msgspec messages that are parsed by decode_params and decode_tables.

A release of msgspec that rewords one fails here.
"""

from typing import Annotated, Literal

import pytest
from msgspec import Meta, Struct

from walrus_protocol.json import BadJson, decode


class Inner(Struct, forbid_unknown_fields=True):
    number: Annotated[int, Meta(ge=1, le=9)] = 1


class Outer(Struct, forbid_unknown_fields=True):
    required: str
    word: Literal["red", "green"] = "red"
    either: int | None = None
    ratio: Annotated[float, Meta(gt=0)] = 1.0
    items: tuple[Inner, ...] = ()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{}", "Object missing required field `required`"),
        ("[]", "Expected `object`, got `array`"),
        ('{"required":1}', "Expected `str`, got `int` - at `$.required`"),
        ('{"required":"","extra":1}', "Object contains unknown field `extra`"),
        ('{"required":"","word":"blue"}', "Invalid enum value 'blue' - at `$.word`"),
        ('{"required":"","either":"x"}', "Expected `int | null`, got `str` - at `$.either`"),
        ('{"required":"","ratio":0}', "Expected `float` > 0.0 - at `$.ratio`"),
        ('{"required":"","items":[{"number":0}]}', "Expected `int` >= 1 - at `$.items[0].number`"),
        ('{"required":"","items":[{"number":10}]}', "Expected `int` <= 9 - at `$.items[0].number`"),
        ('{"required":"","items":[{},{"n":1}]}', "Object contains unknown field `n` - at `$.items[1]`"),
    ],
)
def test_msgspec_reports_an_error_in_the_message_that_is_parsed(text: str, sentence: str) -> None:
    with pytest.raises(BadJson) as caught:
        decode(text, Outer)
    assert caught.value.detail == sentence
