"""Tests of walrusctl session fork, rewind, checkpoint and checkpoints."""

from msgspec.structs import replace

from tests.fakes.daemon import FakeCall, FakeDaemon, fails, returns
from tests.fakes.walrusctl_runner import WalrusctlRunner, session_info
from walrus_protocol.events import CheckpointCreated, Parent, Rewound, SessionCreated
from walrus_protocol.methods import AttachResult, ParentInfo
from walrus_protocol.methods.fork_rewind import (
    CheckpointInfo,
    CheckpointList,
    CheckpointListParams,
    CheckpointParams,
    CheckpointResult,
    ForkParams,
    ForkResult,
    RewindParams,
    RewindResult,
)
from walrusctl.formatting import format_time

TS = 1_793_577_600.0
START = CheckpointInfo(name="start", at=4, ts=TS)
LATER = CheckpointInfo(name="before the storm", at=9, ts=TS + 60)


def pages(call: FakeCall) -> CheckpointList:
    """Returns one checkpoint per page."""
    params = call.request.params
    assert isinstance(params, CheckpointListParams)
    if params.cursor is None:
        return CheckpointList(checkpoints=(START,), cursor="5")
    return CheckpointList(checkpoints=(LATER,))


def test_fork_prints_only_the_id(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["session.fork"] = returns(ForkResult(session=7, at=9))
    result = terminal.run("session", "fork", 3)
    assert (result.stdout, result.stderr) == ("7\n", "")
    assert terminal.run("session", "fork", 3, "--at", 9).output == "7\n"
    assert terminal.json_lines("session", "fork", 3) == [{"session": 7, "at": 9}]
    assert daemon.params("session.fork") == [ForkParams(session=3), ForkParams(session=3, at=9), ForkParams(session=3)]


def test_a_point_may_be_given_by_the_name_of_its_checkpoint(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["session.checkpoints"] = pages
    daemon.script["session.fork"] = returns(ForkResult(session=7, at=9))
    daemon.script["session.rewind"] = returns(RewindResult(last_seq=12, to=4))
    assert terminal.run("session", "fork", 3, "--at", "before the storm").output == "7\n"
    assert terminal.run("session", "rewind", 3, "start").output == "rewound to seq 4\n"
    assert terminal.json_lines("session", "rewind", 3, 4) == [{"last_seq": 12, "to": 4}]
    assert daemon.params("session.fork") == [ForkParams(session=3, at=9)]
    assert daemon.params("session.rewind") == [RewindParams(session=3, to=4)] * 2


def test_a_point_within_a_call_is_rounded_and_a_note_reports_it(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["session.fork"] = returns(ForkResult(session=7, at=9))
    daemon.script["session.rewind"] = returns(RewindResult(last_seq=12, to=9))
    note = "from seq 9 instead: at seq 11 a tool call had no result yet\n"
    for words, answer in ((("fork", "3", "--at", "11"), "7\n"), (("rewind", "3", "11"), "rewound to seq 9\n")):
        result = terminal.run("session", *words)
        assert (result.stdout, result.stderr) == (answer, note)


def test_an_unknown_checkpoint_is_not_found(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["session.checkpoints"] = pages
    for point in ("finish", "9" * 5000):
        result = terminal.run("session", "rewind", 3, point)
        assert (result.exit_code, result.stdout) == (3, "")
        assert result.stderr == (
            f"walrusctl: session 3 has no checkpoint {point!r}\n  hint: `walrusctl session checkpoints 3` lists them.\n"
        )
    assert daemon.params("session.rewind") == []
    assert '"kind": "checkpoint_not_found"' in terminal.run("session", "fork", 3, "--at", "x", "--json").stdout


def test_checkpoints_are_created_and_listed(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["session.checkpoint"] = returns(CheckpointResult(at=4))
    daemon.script["session.checkpoints"] = pages
    assert terminal.run("session", "checkpoint", 3, "start").output == "checkpoint start at seq 4\n"
    assert terminal.json_lines("session", "checkpoint", 3, "start") == [{"at": 4}]
    assert daemon.params("session.checkpoint") == [CheckpointParams(session=3, name="start")] * 2
    assert terminal.run("session", "checkpoints", 3).output == (
        "SEQ  CREATED              NAME\n"
        f"4    {format_time(TS)}  start\n"
        f"9    {format_time(TS + 60)}  before the storm\n"
    )
    [listed] = terminal.json_lines("session", "checkpoints", 3)
    assert isinstance(listed, dict)
    assert [checkpoint["name"] for checkpoint in listed["checkpoints"]] == ["start", "before the storm"]


def test_a_rewind_of_a_running_session_is_busy(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["session.rewind"] = fails("session_busy", "it runs", "wait", retry_after_ms=1000)
    assert terminal.run("session", "rewind", 3, 4).exit_code == 12


def test_show_and_attach_show_the_parent_checkpoints_and_rewinds_of_a_fork(
    daemon: FakeDaemon, terminal: WalrusctlRunner
) -> None:
    def log(call: FakeCall) -> AttachResult:
        call.emit(
            SessionCreated(seq=1, session=7, agent="walrus", parent=Parent(session=3, seq=9, messages=2)),
            CheckpointCreated(seq=2, session=7, name="a\nb", at=1),
            Rewound(seq=3, session=7, to=1, messages=2),
        )
        return AttachResult(last_seq=3, reason="end")

    daemon.script["session.attach"] = log
    daemon.script["session.get"] = returns(replace(session_info(7), parent=ParentInfo(session=3, seq=9)))
    assert terminal.run("session", "attach", 7).stdout == (
        "session 7 of agent walrus created, forked from session 3 at seq 9\ncheckpoint a b at seq 1\nrewound to seq 1\n"
    )
    assert "forked from  session 3 at seq 9\n" in terminal.run("session", "show", 7).stdout
