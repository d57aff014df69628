"""Tests of protocol/README.md: its tables match the Structs, and a client written from it works."""

import json
import re
import socket
import struct
from collections.abc import Container, Iterator
from pathlib import Path
from typing import get_args

import msgspec
from msgspec import inspect as mi
from msgspec import structs

from tests.fakes.daemon import FakeCall, FakeDaemon, returns
from walrus_protocol import content, wire
from walrus_protocol.discover import build_discovery
from walrus_protocol.events import AnyEvent, AnyLiveEvent, Done, Event, TextDelta
from walrus_protocol.methods import METHODS, CreateResult, TurnResult

README = Path(__file__).parents[2] / "protocol" / "README.md"
LITERALS = (
    "StopReason",
    "State",
    "Finish",
    "Outcome",
    "MessageKind",
    "WhenBusy",
    "TickOutcome",
    "TickTrigger",
    "ExpiryReason",
    "EventType",
    "TurnErrorKind",
)
COMMON_EVENT_FIELDS = {field.name for field in structs.fields(Event)} | {"live"}


def type_name(kind: mi.Type) -> str:  # noqa: C901  (one case for each kind of type)
    """Returns the name of a type as the page writes it."""
    match kind:
        case mi.UnionType(types=types):
            names = [type_name(one) for one in types]
            if names == ["string", "Part[]"]:
                return "Content"
            if names == ["TextPart", "ImagePart", "FilePart"]:
                return "Part"
            return "Message" if names == ["User", "Assistant", "ToolOutput"] else " or ".join(names)
        case mi.LiteralType(values=values):
            named = [word for word in LITERALS if set(get_args(getattr(content, word))) == set(values)]
            return named[0] if named else " or ".join(f'"{value}"' for value in values)
        case mi.VarTupleType(item_type=item):
            return f"{type_name(item)}[]"
        case mi.StructType(cls=cls):
            return cls.__name__
        case mi.DictType():
            return "object"
        case mi.IntType():
            return "int"
        case mi.FloatType():
            return "number"
        case mi.StrType():
            return "string"
        case mi.BoolType():
            return "bool"
        case mi.NoneType():
            return "null"
        case _:
            raise NotImplementedError(kind)


def fields(kind: type[msgspec.Struct], *, is_params: bool = False, without: Container[str] = ()) -> str:
    """Returns the fields as the page writes them; `?` marks a param that may be left out."""
    rendered = []
    info = mi.type_info(kind)
    assert isinstance(info, mi.StructType)
    for field in info.fields:
        if field.name in without:
            continue
        optional = "?" if is_params and not field.required else ""
        default = f" = {json.dumps(field.default)}" if optional and field.default not in (None, "") else ""
        rendered.append(f"{field.name}{optional}: {type_name(field.type)}{default}")
    return f"`{', '.join(rendered)}`" if rendered else "nothing"


def method_rows() -> Iterator[str]:
    named = list(shared_structs())
    for name, row in METHODS.items():
        sends = f"{row.sends}, then " if row.sends else ""
        rendered = row.result.__name__ if row.result in named else fields(row.result)
        yield f"| `{name}` | {fields(row.params, is_params=True)} | {sends}{rendered} |"


def event_rows() -> Iterator[str]:
    for event in get_args(AnyEvent):
        live = "live" if event in get_args(AnyLiveEvent) else ""
        yield f"| `{event.__struct_config__.tag}` | {fields(event, without=COMMON_EVENT_FIELDS)} | {live} |"


def shared_structs() -> Iterator[type[msgspec.Struct]]:
    """Iterates over nested Structs and results that several methods share, in order of their first use."""
    shared: dict[type[msgspec.Struct], None] = {}
    results = [row.result for row in METHODS.values()]
    for outer in [*(kind for row in METHODS.values() for kind in (row.params, row.result)), *get_args(AnyEvent)]:
        outer_and_inner = list(nested_structs(mi.type_info(outer)))
        is_shared = results.count(outer) > 1
        shared |= dict.fromkeys(outer_and_inner if is_shared else outer_and_inner[1:])
    return iter(shared)


def nested_structs(kind: mi.Type) -> Iterator[type[msgspec.Struct]]:
    match kind:
        case mi.StructType(cls=cls, fields=members):
            yield cls
            for member in members:
                yield from nested_structs(member.type)
        case mi.UnionType(types=types):
            for one in types:
                yield from nested_structs(one)
        case mi.VarTupleType(item_type=item):
            yield from nested_structs(item)
        case _:
            return


def object_rows() -> Iterator[str]:
    for kind in shared_structs():
        tag = kind.__struct_config__
        tagged = f'`{tag.tag_field}: "{tag.tag}"`, ' if tag.tag_field else ""
        yield f"| {kind.__name__} | {tagged}{fields(kind)} |"


def literal_rows() -> Iterator[str]:
    for word in LITERALS:
        yield f"| {word} | {', '.join(get_args(getattr(content, word)))} |"


def kind_rows() -> Iterator[str]:
    for kind, code in wire.KINDS.items():
        yield f"| `{kind}` | {code} | {wire.exit_code_for_error(code, kind)} |"


def rows_under(heading: str) -> list[str]:
    """Returns the rows of the table under a heading of the page."""
    section = re.search(rf"^##+ {heading}\n(.*?)(?=^##+ |\Z)", README.read_text(), re.MULTILINE | re.DOTALL)
    assert section, heading
    lines = [line for line in section[1].splitlines() if line.startswith("|")]
    return lines[2:]


def first_columns(rows: list[str], columns: int) -> list[str]:
    """Returns the first columns of rows; the other columns are explanations for people."""
    return [" | ".join(row.split(" | ")[:columns]).rstrip(" |") + " |" for row in rows]


def test_the_table_of_methods_matches_the_code() -> None:
    assert rows_under("Methods") == list(method_rows())


def test_the_page_names_the_methods_whose_requests_are_ordered() -> None:
    [names] = re.findall(r"if their methods\n  are ([^.]*\.[^.]*)\.", README.read_text())
    named = {word if "." in word else f"session.{word}" for word in re.findall(r"`([\w.]+)`", names)}
    assert named == {name for name, row in METHODS.items() if row.order_by == "session"}


def test_the_table_of_events_matches_the_code() -> None:
    assert rows_under("Events") == list(event_rows())


def test_event_type_lists_the_tags_of_all_events_in_order() -> None:
    assert list(get_args(content.EventType)) == [event.__struct_config__.tag for event in get_args(AnyEvent)]


def test_the_table_of_objects_matches_the_code() -> None:
    assert rows_under("Objects") == list(object_rows())


def test_the_table_of_literals_matches_the_code() -> None:
    assert rows_under("Words") == list(literal_rows())


def test_the_type_of_error_kinds_has_the_same_kinds_as_their_table() -> None:
    assert get_args(wire.Kind) == tuple(wire.KINDS)


def test_the_table_of_error_kinds_matches_the_code() -> None:
    assert first_columns(rows_under("Errors"), 3) == list(kind_rows())


def test_the_page_has_the_limits_of_the_code() -> None:
    page = README.read_text()
    assert f"{wire.MAX_FRAME:,} bytes" in page
    assert f"{wire.MAX_MESSAGE:,} bytes" in page


def test_the_example_frame_is_a_ping() -> None:
    dump = re.search(r"```hex\n(.*?)```", README.read_text(), re.DOTALL)
    assert dump
    frames = wire.FrameDecoder()
    frames.feed(bytes.fromhex(re.sub(r"#.*", "", dump[1])))
    assert [json.loads(payload) for payload in frames] == [{"jsonrpc": "2.0", "id": 1, "method": "daemon.ping"}]


def test_discovery_lists_every_method_with_its_own_schemas() -> None:
    discovery = json.loads(msgspec.json.encode(build_discovery()))
    assert discovery["protocol"] == wire.PROTOCOL
    assert [method["name"] for method in discovery["methods"]] == list(METHODS)
    for method in discovery["methods"]:
        for schema in method["params"], method["result"]:
            assert schema["$ref"].removeprefix("#/definitions/") in discovery["definitions"]
    create = discovery["definitions"]["CreateParams"]
    assert (create["required"], create["additionalProperties"]) == (["agent"], False)


class ReadmeClient:
    """A client written from the page alone: a socket, a length, JSON."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(path))
        self.file = self.sock.makefile("rb")
        self.last_id = 0

    def send(self, message: object) -> None:
        payload = json.dumps(message).encode()
        self.sock.sendall(struct.pack(">I", len(payload)) + payload)

    def receive(self) -> dict[str, dict[str, object]]:
        (size,) = struct.unpack(">I", self.file.read(4))
        message: dict[str, dict[str, object]] = json.loads(self.file.read(size))
        return message

    def call(self, method: str, **params: object) -> tuple[list[object], dict[str, object]]:
        self.last_id += 1
        self.send({"jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params})
        events = []
        while True:
            message = self.receive()
            if message.get("method") == "event":  # type: ignore[comparison-overlap]  # untyped JSON
                events.append(message["params"]["event"])
            elif message["id"] == self.last_id:  # type: ignore[comparison-overlap]  # as above
                return events, message.get("result") or message["error"]

    def close(self) -> None:
        self.file.close()
        self.sock.close()


def test_a_client_written_from_the_readme_alone_can_run_a_turn(tmp_path: Path) -> None:
    def answer_hello(call: FakeCall) -> msgspec.Struct:
        call.emit(TextDelta(text="hel", round=1, at=0), TextDelta(text="lo", round=1, at=3))
        call.emit(Done(stop_reason="text_response", text="hello", seq=4, offset=9, session=1, turn=1))
        return TurnResult(session=1, turn=1, text="hello", stop_reason="text_response")

    script = {"session.create": returns(CreateResult(session=1)), "session.stream": answer_hello}
    with FakeDaemon(tmp_path / "walrus.sock", script) as daemon:
        client = ReadmeClient(daemon.path)
        assert client.call("session.create", agent="walrus") == ([], {"session": 1})
        events, result = client.call("session.stream", session=1, content="hi")
        _, refused = client.call("session.sent", session=1)
        client.close()
    assert "".join(event["text"] for event in events if event["type"] == "text_delta") == "hello"  # type: ignore[index]  # as above
    assert result["text"] == "hello"
    assert refused["data"] == {"kind": "method_not_found", "hint": "did you mean session.send?"}
