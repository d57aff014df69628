"""walrusctl session export and import: what goes to stdout and into files, whole or not at all, and for people too."""

import json
import os
import pty
import stat
from pathlib import Path

import pytest

from tests.fakes.daemon import Call, FakeDaemon, Handler, HangUp, answers, refuses
from tests.fakes.documents import Chat, Document, as_text, document, family
from tests.fakes.home import PATIENCE_S
from tests.fakes.terminal import Terminal
from walrus_protocol.content import ImagePart, TextPart, TurnError
from walrus_protocol.events import AssistantMessage, CheckpointCreated, Done, Rewound, SessionClosed, UserMessage
from walrus_protocol.portable import Exported, ExportParams, Imported, ImportParams
from walrus_protocol.wire import MAX_DOCUMENT
from walrusctl.render import when

MADE = Imported(received=99, session=7, agent="walrus")


def sends(text: str, *, size: int = 700) -> Handler:
    def export(call: Call) -> Exported:
        call.emit_chunks(*(text[at : at + size] for at in range(0, len(text), size)))
        return Exported(events=28, bytes=len(text.encode()))

    return export


def dies_within(call: Call) -> Exported:
    call.emit_chunks('{"walrus_export":1,')
    raise HangUp


def keeps(daemon: FakeDaemon) -> str:
    """All that was sent to be imported."""
    sent = [params for params in daemon.params("session.import") if isinstance(params, ImportParams)]
    assert [params.last for params in sent] == [False] * (len(sent) - 1) + [True]
    return "".join(params.data for params in sent)


def told_of(path: Path, daemon: FakeDaemon, terminal: Terminal) -> str:
    """What is wrong with it that walrusctl itself can see."""
    asked = len(daemon.asked)
    result = terminal.types("session", "import", str(path), "--json")
    told = json.loads(result.stdout)["error"]
    assert result.stderr == f"walrusctl: {told['message']}\n  hint: {told['hint']}\n"
    assert (result.exit_code, told["kind"], len(daemon.asked)) == (2, "invalid_params", asked)
    return str(told["message"]).removeprefix("this is no exported session: ")


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"walrus.sock"}


def test_export_writes_the_document_as_it_is(daemon: FakeDaemon, terminal: Terminal) -> None:
    text = as_text(family()) + "\n"
    daemon.script["session.export"] = sends(text)
    result = terminal.types("session", "export", 3)
    assert (result.exit_code, result.stdout, result.stderr) == (0, text, "")
    assert terminal.types("session", "export", 3, "-o", "-", "--json").stdout == text
    assert daemon.params("session.export") == [ExportParams(session=3)] * 2


def test_a_file_is_its_owners_alone_and_takes_the_place_of_what_was_there(
    daemon: FakeDaemon, terminal: Terminal, tmp_path: Path
) -> None:
    text = as_text(family())
    daemon.script["session.export"] = sends(text)
    path = tmp_path / "walrus.json"
    path.write_text("what was there")
    path.chmod(0o644)
    link = tmp_path / "link.json"
    link.symlink_to(path)
    result = terminal.types("session", "export", 3, "-o", str(link))
    said = f"28 events, {len(text.encode()):,} bytes of JSON, written to {link} as json\n"
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", said)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode), link.is_symlink()) == (text, 0o600, True)
    assert left_in(tmp_path) == {"walrus.json", "link.json"}
    (told,) = terminal.lines("session", "export", 3, "-o", str(path))
    assert told == {"events": 28, "bytes": len(text.encode()), "file": str(path)}


@pytest.mark.parametrize("form", ["json", "jsonl", "markdown"])
def test_what_is_cut_off_leaves_no_half_a_file_and_what_was_there(
    form: str, daemon: FakeDaemon, terminal: Terminal, tmp_path: Path
) -> None:
    path = tmp_path / "walrus.json"
    path.write_text("what was there")
    for handler, exit_code in ((dies_within, 4), (refuses("session_not_found", "there is none"), 3)):
        daemon.script["session.export"] = handler
        result = terminal.types("session", "export", 3, "-o", str(path), "--format", form)
        assert (result.exit_code, result.stdout, path.read_text()) == (exit_code, "", "what was there")
        assert left_in(tmp_path) == {"walrus.json"}


def test_where_nothing_can_be_written_that_is_said(daemon: FakeDaemon, terminal: Terminal, tmp_path: Path) -> None:
    daemon.script["session.export"] = sends("{}")
    for path, why in ((tmp_path / "no" / "such", "No such file or directory"), (tmp_path, "Is a directory")):
        result = terminal.types("session", "export", 3, "-o", str(path))
        assert (result.exit_code, result.stdout) == (1, "")
        assert (
            result.stderr == f"walrusctl: cannot write {path}: {why}\n  hint: name another file, or make room for it\n"
        )


def test_who_exports_more_than_can_be_imported_is_told(daemon: FakeDaemon, terminal: Terminal, tmp_path: Path) -> None:
    daemon.script["session.export"] = lambda _: Exported(events=1, bytes=MAX_DOCUMENT + 1)
    for to in (["-o", str(tmp_path / "large.json")], []):
        result = terminal.types("session", "export", 3, *to)
        assert result.exit_code == 0
        assert "no walrusd imports a document of over 268,435,456 bytes" in result.stderr


def test_stdout_by_its_other_name_is_stdout_and_no_name_is_none(daemon: FakeDaemon, terminal: Terminal) -> None:
    daemon.script["session.export"] = sends("{}")
    assert terminal.types("session", "export", 3, "-o", "/dev/stdout").stdout == "{}"
    result = terminal.types("session", "export", 3, "-o", "")
    assert (result.exit_code, result.stdout, "-o names no file" in result.stderr) == (2, "", True)


def test_a_pipe_by_its_number_is_written(daemon: FakeDaemon, terminal: Terminal) -> None:
    daemon.script["session.export"] = sends("{}")
    ours, theirs = os.pipe()
    result = terminal.types("session", "export", 3, "-o", f"/dev/fd/{theirs}")
    os.close(theirs)
    with open(ours) as pipe:
        assert (result.exit_code, pipe.read()) == (0, "{}")


def test_a_device_is_written_and_not_replaced(daemon: FakeDaemon, terminal: Terminal, tmp_path: Path) -> None:
    daemon.script["session.export"] = sends("{}")
    assert terminal.types("session", "export", 3, "-o", "/dev/null").exit_code == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_jsonl_is_an_event_a_line_inherited_ones_first(daemon: FakeDaemon, terminal: Terminal) -> None:
    told = family()
    daemon.script["session.export"] = sends(as_text(told))
    events = [*(event for ancestor in told["ancestors"] for event in ancestor["events"]), *told["events"]]
    assert terminal.lines("session", "export", 3, "--format", "jsonl") == events


def chat() -> Document:
    first = Chat(3)
    first.turn("one\x1b[31m")
    first.hear(CheckpointCreated(name="here*", at=4))
    own = first.fork(5)
    own.looks("what is there?")
    own.hear(UserMessage(content=(TextPart("see ```this```"), ImagePart(url="x:y")), sender="ann", kind="heartbeat"))
    own.hear(AssistantMessage(round=1, content=" \n", finish="interrupted"))
    own.hear(Done(stop_reason="error", error=TurnError("timeout", "It took\x1b]0;x\x07 too long.")))
    own.hear(UserMessage(content="and?"))
    own.hear(AssistantMessage(round=1, content="# Mine\n\n```\nopen", finish="interrupted"))
    own.hear(Done(stop_reason="interrupted"))
    own.hear(Rewound(to=1, messages=2), SessionClosed(by="me"))
    told = document(first, own)
    told["session"]["title"] = "On\nwalruses"
    told["session"]["turn_left_out"] = 3
    told["events"][5]["output"] = "```\nx\n````\n\x1b[2J"
    return told


MARKDOWN = f"""\
# On walruses

*Session 5 of agent walrus, made {when(0)} by me. Turn 3 was under way, and is left out.*

## User, {when(1)}

> one

## Assistant, {when(2)}

> I heard one\x5b31m.

*checkpoint here\\* at seq 4*

*session 5 of agent walrus created, forked from session 3 at seq 5*

## User, {when(1)}

> what is there?

*→ look*

```json
{{
  "at": "the sea"
}}
```

*← look: ok*

`````
```
x
````
`````

## Assistant, {when(7)}

> Blue.

## ann (heartbeat), {when(9)}

> see ```this```
> [image]

*done: error, 1 round, 0 tokens in, 0 out, cost unknown, 2.0 s timeout: It took too long.*

## User, {when(12)}

> and?

## Assistant, {when(13)} (cut off)

> # Mine
>
> ```
> open

*done: interrupted, 1 round, 0 tokens in, 0 out, cost unknown, 2.0 s*

*rewound to seq 1*

*session closed*
""".replace("one\x5b31m.", "one.")


def test_markdown_is_pleasant_to_read_and_holds_nothing_that_a_terminal_obeys(
    daemon: FakeDaemon, terminal: Terminal
) -> None:
    daemon.script["session.export"] = sends(as_text(chat()))
    result = terminal.types("session", "export", 5, "--format", "markdown")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == MARKDOWN


def test_json_and_markdown_on_stdout_exclude_each_other(daemon: FakeDaemon, terminal: Terminal) -> None:
    result = terminal.types("session", "export", 5, "--format", "markdown", "--json")
    assert result.exit_code == 2
    assert "give -o FILE" in result.stderr
    assert daemon.asked == []


def test_import_prints_the_id_alone(daemon: FakeDaemon, terminal: Terminal, tmp_path: Path) -> None:
    text = as_text(family()) + "é" * 1_000_000
    daemon.script["session.import"] = answers(MADE)
    path = tmp_path / "walrus.json"
    path.write_text(text)
    result = terminal.types("session", "import", str(path))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "7\n", "")
    assert (keeps(daemon), len(daemon.asked)) == (text, 4)


def test_import_reads_a_pipe_and_tells_what_may_be_amiss_beside(daemon: FakeDaemon, terminal: Terminal) -> None:
    daemon.script["session.import"] = answers(Imported(received=2, session=7, agent="x", warnings=("there is no x",)))
    result = terminal.types("session", "import", "-", stdin="{}")
    assert (result.stdout, result.stderr) == ("7\n", "there is no x\n")
    assert keeps(daemon) == "{}"
    result = terminal.types("session", "import", "-", "--json", stdin="{}")
    assert result.stdout == '{"received": 2, "session": 7, "agent": "x", "warnings": ["there is no x"]}\n'


def test_what_is_no_document_is_refused_with_words(daemon: FakeDaemon, terminal: Terminal, tmp_path: Path) -> None:
    daemon.script["session.import"] = refuses("invalid_params", "this cannot be imported: it is cut off", "Look.")
    result = terminal.types("session", "import", "-", stdin="{")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "walrusctl: this cannot be imported: it is cut off\n  hint: Look.\n"
    result = terminal.types("session", "import", str(tmp_path / "none.json"))
    assert (result.exit_code, "No such file or directory" in result.stderr) == (2, True)
    daemon.script["session.import"] = refuses("not_available_yet", "the document is of version 2", "Update.")
    assert terminal.types("session", "import", "-", stdin="{}").exit_code == 2


def test_what_is_seen_to_be_no_document_is_not_sent(daemon: FakeDaemon, terminal: Terminal, tmp_path: Path) -> None:
    daemon.script["session.export"] = sends(as_text(chat()))
    path = tmp_path / "chat"
    for form in ("jsonl", "markdown"):
        assert terminal.types("session", "export", 5, "--format", form, "-o", str(path)).exit_code == 0
        assert told_of(path, daemon, terminal).startswith(f"it looks like --format {form}, which")
    for held, wrong in ((b" \n", "it is empty"), (b'{"a":"\xff\xfe"}', "it holds bytes that are no UTF-8")):
        path.write_bytes(held)
        assert told_of(path, daemon, terminal) == wrong


def test_who_is_waited_for_at_a_terminal_is_told_so(daemon: FakeDaemon, terminal: Terminal) -> None:
    daemon.script["session.import"] = answers(MADE)
    ours, theirs = pty.openpty()
    with terminal.child("session", "import", "-", stdin=theirs) as child:
        assert child.stderr
        assert child.stderr.readline() == b"waiting for a document on stdin; Ctrl-D ends it\n"
        os.write(ours, b"{}\n\x04")
        assert child.wait(PATIENCE_S) == 0
    os.close(theirs)
    os.close(ours)
    assert keeps(daemon) == "{}\n"
