"""Tests of walrusctl session export and import: stdout, files, Markdown, and invalid documents."""

import json
import os
import pty
import stat
from pathlib import Path

import pytest

from tests.fakes.daemon import FakeCall, FakeDaemon, Handler, HangUp, fails, returns
from tests.fakes.export_documents import (
    ExportDict,
    SessionLogBuilder,
    build_document,
    encode_document,
    three_generations,
)
from tests.fakes.home import MAX_WAIT_S
from tests.fakes.walrusctl_runner import WalrusctlRunner
from walrus_protocol.content import ImagePart, TextPart, TurnError
from walrus_protocol.events import AssistantMessage, CheckpointCreated, Done, Rewound, SessionClosed, UserMessage
from walrus_protocol.methods.export_import import ExportParams, ExportResult, ImportParams, ImportResult
from walrus_protocol.wire import MAX_DOCUMENT
from walrusctl.formatting import format_time

IMPORTED = ImportResult(received=99, session=7, agent="walrus")


def export_handler(text: str, *, size: int = 700) -> Handler:
    def export(call: FakeCall) -> ExportResult:
        call.emit_chunks(*(text[at : at + size] for at in range(0, len(text), size)))
        return ExportResult(events=28, bytes=len(text.encode()))

    return export


def export_cut_off(call: FakeCall) -> ExportResult:
    call.emit_chunks('{"walrus_export":1,')
    raise HangUp


def imported_text(daemon: FakeDaemon) -> str:
    """Returns all text sent with session.import."""
    sent = [params for params in daemon.params("session.import") if isinstance(params, ImportParams)]
    assert [params.last for params in sent] == [False] * (len(sent) - 1) + [True]
    return "".join(params.data for params in sent)


def import_error(path: Path, daemon: FakeDaemon, terminal: WalrusctlRunner) -> str:
    """Returns the error that walrusctl reports for a file without a request."""
    requests = len(daemon.requests)
    result = terminal.run("session", "import", str(path), "--json")
    error = json.loads(result.stdout)["error"]
    assert result.stderr == f"walrusctl: {error['message']}\n  hint: {error['hint']}\n"
    assert (result.exit_code, error["kind"], len(daemon.requests)) == (2, "invalid_params", requests)
    return str(error["message"]).removeprefix("this is not an exported session: ")


def remaining_files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"walrus.sock"}


def test_export_writes_the_document_as_it_is(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    text = encode_document(three_generations()) + "\n"
    daemon.script["session.export"] = export_handler(text)
    result = terminal.run("session", "export", 3)
    assert (result.exit_code, result.stdout, result.stderr) == (0, text, "")
    assert terminal.run("session", "export", 3, "-o", "-", "--json").stdout == text
    assert daemon.params("session.export") == [ExportParams(session=3)] * 2


def test_a_file_is_private_to_its_owner_and_replaces_the_old_file(
    daemon: FakeDaemon, terminal: WalrusctlRunner, tmp_path: Path
) -> None:
    text = encode_document(three_generations())
    daemon.script["session.export"] = export_handler(text)
    path = tmp_path / "walrus.json"
    path.write_text("the old file")
    path.chmod(0o644)
    link = tmp_path / "link.json"
    link.symlink_to(path)
    result = terminal.run("session", "export", 3, "-o", str(link))
    note = f"28 events, {len(text.encode()):,} bytes of JSON, written to {link} as json\n"
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", note)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode), link.is_symlink()) == (text, 0o600, True)
    assert remaining_files(tmp_path) == {"walrus.json", "link.json"}
    (report,) = terminal.json_lines("session", "export", 3, "-o", str(path))
    assert report == {"events": 28, "bytes": len(text.encode()), "file": str(path)}


@pytest.mark.parametrize("form", ["json", "jsonl", "markdown"])
def test_a_failed_export_leaves_the_old_file_and_no_partial_one(
    form: str, daemon: FakeDaemon, terminal: WalrusctlRunner, tmp_path: Path
) -> None:
    path = tmp_path / "walrus.json"
    path.write_text("the old file")
    for handler, exit_code in ((export_cut_off, 4), (fails("session_not_found", "there is none"), 3)):
        daemon.script["session.export"] = handler
        result = terminal.run("session", "export", 3, "-o", str(path), "--format", form)
        assert (result.exit_code, result.stdout, path.read_text()) == (exit_code, "", "the old file")
        assert remaining_files(tmp_path) == {"walrus.json"}


def test_a_path_that_cannot_be_written_is_reported(
    daemon: FakeDaemon, terminal: WalrusctlRunner, tmp_path: Path
) -> None:
    daemon.script["session.export"] = export_handler("{}")
    for path, reason in ((tmp_path / "no" / "such", "No such file or directory"), (tmp_path, "Is a directory")):
        result = terminal.run("session", "export", 3, "-o", str(path))
        assert (result.exit_code, result.stdout) == (1, "")
        assert (
            result.stderr
            == f"walrusctl: cannot write {path}: {reason}\n  hint: choose another file, or free disk space\n"
        )


def test_an_export_that_is_too_large_to_import_has_a_warning(
    daemon: FakeDaemon, terminal: WalrusctlRunner, tmp_path: Path
) -> None:
    daemon.script["session.export"] = lambda _: ExportResult(events=1, bytes=MAX_DOCUMENT + 1)
    for options in (["-o", str(tmp_path / "large.json")], []):
        result = terminal.run("session", "export", 3, *options)
        assert result.exit_code == 0
        assert "too large to import: the limit is 268,435,456 bytes" in result.stderr


def test_dev_stdout_is_stdout_and_an_empty_file_name_is_refused(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["session.export"] = export_handler("{}")
    assert terminal.run("session", "export", 3, "-o", "/dev/stdout").stdout == "{}"
    result = terminal.run("session", "export", 3, "-o", "")
    assert (result.exit_code, result.stdout, "-o is empty" in result.stderr) == (2, "", True)


def test_a_pipe_given_by_its_descriptor_is_written(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["session.export"] = export_handler("{}")
    ours, theirs = os.pipe()
    result = terminal.run("session", "export", 3, "-o", f"/dev/fd/{theirs}")
    os.close(theirs)
    with open(ours) as pipe:
        assert (result.exit_code, pipe.read()) == (0, "{}")


def test_a_device_is_written_and_not_replaced(daemon: FakeDaemon, terminal: WalrusctlRunner, tmp_path: Path) -> None:
    daemon.script["session.export"] = export_handler("{}")
    assert terminal.run("session", "export", 3, "-o", "/dev/null").exit_code == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_jsonl_has_one_event_per_line_inherited_events_first(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    document = three_generations()
    daemon.script["session.export"] = export_handler(encode_document(document))
    events = [*(event for ancestor in document["ancestors"] for event in ancestor["events"]), *document["events"]]
    assert terminal.json_lines("session", "export", 3, "--format", "jsonl") == events


def sample_document() -> ExportDict:
    first = SessionLogBuilder(3)
    first.add_turn("one\x1b[31m")
    first.append(CheckpointCreated(name="here*", at=4))
    own = first.fork(5)
    own.add_tool_turn("what is there?")
    own.append(UserMessage(content=(TextPart("see ```this```"), ImagePart(url="x:y")), sender="ann", kind="heartbeat"))
    own.append(AssistantMessage(round=1, content=" \n", finish="interrupted"))
    own.append(Done(stop_reason="error", error=TurnError("timeout", "It took\x1b]0;x\x07 too long.")))
    own.append(UserMessage(content="and?"))
    own.append(AssistantMessage(round=1, content="# Mine\n\n```\nopen", finish="interrupted"))
    own.append(Done(stop_reason="interrupted"))
    own.append(Rewound(to=1, messages=2), SessionClosed(by="me"))
    document = build_document(first, own)
    document["session"]["title"] = "On\nwalruses"
    document["session"]["turn_left_out"] = 3
    document["events"][5]["output"] = "```\nx\n````\n\x1b[2J"
    return document


EXPECTED_MARKDOWN = f"""\
# On walruses

*Session 5 of agent walrus, created {format_time(0)} by me. Turn 3 was still running and is left out.*

## User, {format_time(1)}

> one

## Assistant, {format_time(2)}

> I heard one\x5b31m.

*checkpoint here\\* at seq 4*

*session 5 of agent walrus created, forked from session 3 at seq 5*

## User, {format_time(1)}

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

## Assistant, {format_time(7)}

> Blue.

## ann (heartbeat), {format_time(9)}

> see ```this```
> [image]

*done: error, 1 round, 0 tokens in, 0 out, cost unknown, 2.0 s timeout: It took too long.*

## User, {format_time(12)}

> and?

## Assistant, {format_time(13)} (cut off)

> # Mine
>
> ```
> open

*done: interrupted, 1 round, 0 tokens in, 0 out, cost unknown, 2.0 s*

*rewound to seq 1*

*session closed*
""".replace("one\x5b31m.", "one.")


def test_markdown_shows_the_conversation_without_escape_sequences(
    daemon: FakeDaemon, terminal: WalrusctlRunner
) -> None:
    daemon.script["session.export"] = export_handler(encode_document(sample_document()))
    result = terminal.run("session", "export", 5, "--format", "markdown")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == EXPECTED_MARKDOWN


def test_json_and_markdown_on_stdout_exclude_each_other(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    result = terminal.run("session", "export", 5, "--format", "markdown", "--json")
    assert result.exit_code == 2
    assert "give -o FILE" in result.stderr
    assert daemon.requests == []


def test_import_prints_only_the_id(daemon: FakeDaemon, terminal: WalrusctlRunner, tmp_path: Path) -> None:
    text = encode_document(three_generations()) + "é" * 1_000_000
    daemon.script["session.import"] = returns(IMPORTED)
    path = tmp_path / "walrus.json"
    path.write_text(text)
    result = terminal.run("session", "import", str(path))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "7\n", "")
    assert (imported_text(daemon), len(daemon.requests)) == (text, 4)


def test_import_reads_a_pipe_and_prints_warnings_to_stderr(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["session.import"] = returns(
        ImportResult(received=2, session=7, agent="x", warnings=("there is no x",))
    )
    result = terminal.run("session", "import", "-", stdin="{}")
    assert (result.stdout, result.stderr) == ("7\n", "there is no x\n")
    assert imported_text(daemon) == "{}"
    result = terminal.run("session", "import", "-", "--json", stdin="{}")
    assert result.stdout == '{"received": 2, "session": 7, "agent": "x", "warnings": ["there is no x"]}\n'


def test_an_invalid_document_is_refused_with_a_message(
    daemon: FakeDaemon, terminal: WalrusctlRunner, tmp_path: Path
) -> None:
    daemon.script["session.import"] = fails("invalid_params", "this cannot be imported: it is cut off", "Look.")
    result = terminal.run("session", "import", "-", stdin="{")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "walrusctl: this cannot be imported: it is cut off\n  hint: Look.\n"
    result = terminal.run("session", "import", str(tmp_path / "none.json"))
    assert (result.exit_code, "No such file or directory" in result.stderr) == (2, True)
    daemon.script["session.import"] = fails("not_available_yet", "the document is of version 2", "Update.")
    assert terminal.run("session", "import", "-", stdin="{}").exit_code == 2


def test_a_file_that_is_visibly_not_a_document_is_not_sent(
    daemon: FakeDaemon, terminal: WalrusctlRunner, tmp_path: Path
) -> None:
    daemon.script["session.export"] = export_handler(encode_document(sample_document()))
    path = tmp_path / "chat"
    for form in ("jsonl", "markdown"):
        assert terminal.run("session", "export", 5, "--format", form, "-o", str(path)).exit_code == 0
        assert import_error(path, daemon, terminal).startswith(f"it looks like --format {form}, which")
    for content, problem in ((b" \n", "it is empty"), (b'{"a":"\xff\xfe"}', "it contains bytes that are not UTF-8")):
        path.write_bytes(content)
        assert import_error(path, daemon, terminal) == problem


def test_an_import_that_waits_for_terminal_input_prints_a_note(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["session.import"] = returns(IMPORTED)
    ours, theirs = pty.openpty()
    with terminal.start_process("session", "import", "-", stdin=theirs) as child:
        assert child.stderr
        assert child.stderr.readline() == b"waiting for a document on stdin; end it with Ctrl-D\n"
        os.write(ours, b"{}\n\x04")
        assert child.wait(MAX_WAIT_S) == 0
    os.close(theirs)
    os.close(ours)
    assert imported_text(daemon) == "{}\n"
