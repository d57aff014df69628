"""Tests of the errors of walrus.toml: each has the file, the line, the key and a hint."""

import os
from pathlib import Path

import pytest

from tests.config.conftest import LoadErrors, LoadToml
from walrus_config.errors import ConfigError, ConfigProblem
from walrus_config.load import load

ECHO = '[providers.echo]\nkind = "echo"\nmodels = ["m"]\n'
EVERY_AGENT_KEY = (
    "known here: deny_tools, description, heartbeat, max_iterations, mcps, members, model, permissions, skills, "
    "thinking, tools, workspace"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[agents.x]\n\nmax_iteration = 3", "3: agents.x.max_iteration: unknown key; did you mean max_iterations?"),
        ("[deamon]", "1: deamon: unknown key; did you mean daemon?"),
        (
            "home = 1",
            (
                "1: home: unknown key; known here: agents, daemon, defaults, models, permissions, providers, sessions, "
                "storage, tools"
            ),
        ),
        ("[agents.x]\nname = 'y'", f"2: agents.x.name: unknown key; {EVERY_AGENT_KEY}"),
        ("[agents.x]\nsystem_prompt = 'y'", f"2: agents.x.system_prompt: unknown key; {EVERY_AGENT_KEY}"),
        ('[agents]\n"a\\u001Bb" = 3', '2: agents."a\\u001bb": expected a table, not a whole number'),
        ("agents = []", "1: agents: expected a table, not a list"),
        ("[daemon]\nmax_connections = '9'", "2: daemon.max_connections: expected a whole number, not text"),
        ("[daemon]\nmax_connections = 2.5", "2: daemon.max_connections: expected a whole number, not a number"),
        ("[daemon]\nmax_connections = true", "2: daemon.max_connections: expected a whole number, not true or false"),
        ("[daemon]\nmax_connections = 0", "2: daemon.max_connections: must be at least 1, not 0"),
        (
            "[daemon]\nmax_connections = 9_000_000_000",
            "2: daemon.max_connections: must be at most 1,000,000,000, not 9000000000",
        ),
        (
            "[daemon]\nshutdown_grace_s = inf",
            "2: daemon.shutdown_grace_s: must be at most 1,000,000,000, not inf",
        ),
        ("[daemon]\nshutdown_grace_s = nan", "2: daemon.shutdown_grace_s: must be at least 0, not nan"),
        ("[daemon]\nsocket = 2020-01-01", "2: daemon.socket: expected text, not a date"),
        ('[daemon]\nsocket = "a\\u0000"', "2: daemon.socket: contains a control character"),
        (
            "[daemon]\nlog_level = 'warn'",
            '2: daemon.log_level: "warn" is not one of debug, info, warning, error; did you mean warning?',
        ),
        ("[daemon]\nlog_level = 3", "2: daemon.log_level: expected text, not a whole number"),
        ("[agents.x]\ntools = 'read'", "2: agents.x.tools: expected a list, not text"),
        ("[agents.x]\ntools = [\n'read',\n7]", "4: agents.x.tools[1]: expected text, not a whole number"),
        ("[agents.x]\nthinking = 1", "2: agents.x.thinking: expected true or false, not a whole number"),
        ("[providers.p]\nmodels = []", "1: providers.p.kind: missing; one of openai, local, scripted, echo"),
        (
            "[providers.p]\nkind = 'opanai'",
            '2: providers.p.kind: "opanai" is not one of openai, local, scripted, echo; did you mean openai?',
        ),
        (
            "[providers.p]\nkind = 'anthropic'",
            '2: providers.p.kind: "anthropic" is not available yet; remove it',
        ),
        ("[providers.p]\nkind = 'echo'\nmax_retries = 11", "3: providers.p.max_retries: must be at most 10, not 11"),
        ("[providers.p]\nkind = 'echo'\ntimeout_s = 0", "3: providers.p.timeout_s: must be more than 0, not 0"),
        ("[providers.p]\nkind = 'openai'\napi_key = 5", "3: providers.p.api_key: expected text, not a whole number"),
        ("[providers.p]\nkind = 'openai'\nheaders = 5", "3: providers.p.headers: expected a table, not a whole number"),
        (
            "[providers.p]\nkind = 'openai'\nheaders.a = []",
            "3: providers.p.headers.a: expected text, not a list",
        ),
        ("[models.m]\nprice = 3", "2: models.m.price: expected a table, not a whole number"),
        ("[models.m]\nprice.input = -1", "2: models.m.price.input: must be at least 0, not -1"),
        (
            "[models.m]\nprice = { inptu = 1 }",
            "2: models.m.price.inptu: unknown key; did you mean input?",
        ),
        ("[models.'a/b c']\nfallback = []", '2: models."a/b c".fallback: not available yet; remove it'),
        ("[agents.x]\nbudget = {}", "2: agents.x.budget: not available yet; remove it"),
        ("budget.usd_per_day = 1", "1: budget: not available yet; remove it"),
        (
            "[permissions]\ndefault = 'ask'",
            '2: permissions.default: "ask" is not available yet; remove it',
        ),
        *(
            (
                f"[tools.bash]\nsandbox = '{sandbox}'",
                f'2: tools.bash.sandbox: "{sandbox}" is not available yet; remove it',
            )
            for sandbox in ("auto", "bwrap")
        ),
        ("[tools.bash]\nsandbox = 'nome'", '2: tools.bash.sandbox: "nome" is not one of none; did you mean none?'),
        ("[tools.bash]\nnetwork = true", "2: tools.bash.network: not available yet; remove it"),
        ("[mcps.github]", "1: mcps: not available yet; remove it"),
    ],
)
def test_an_invalid_key_is_refused_with_its_line(load_errors: LoadErrors, text: str, message: str) -> None:
    (problem,) = load_errors(text)
    assert problem == f"walrus.toml:{message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\nb = = 2\n", "walrus.toml:2: invalid value; this is not TOML"),
        ("a = 1\n\n[b", "walrus.toml:3: expected ']' at the end of a table declaration; this is not TOML"),
        ("[a]\n[b]\n[a]\n", "walrus.toml:3: cannot declare ('a',) twice; this is not TOML"),
        ("a = " + "[" * 5000, "walrus.toml: nested too deeply"),
        ("a = " + "9" * 5000, "walrus.toml: exceeds the limit"),
        ("#" * 1024 * 1024 + "!", "walrus.toml: larger than 1,048,576 bytes; "),
    ],
)
def test_invalid_toml_is_refused_with_its_line(load_errors: LoadErrors, text: str, message: str) -> None:
    (problem,) = load_errors(text)
    assert problem.startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f'{ECHO}[providers.two]\nkind = "echo"\nmodels = [\n  "n",\n  "m",\n]',
            (
                "8: providers.two.models[1]: m is a model of echo and of two; "
                "keep it in one of them; two/m works without being listed"
            ),
        ),
        (f'{ECHO}[agents.x]\nmodel = "mm"', '5: agents.x.model: no provider has the model "mm"; did you mean m?'),
        (
            f'{ECHO}[defaults]\nmodel = "other/m"',
            '5: defaults.model: no provider has the model "other/m"; known here: m',
        ),
        (
            f'{ECHO}[providers.m]\nkind = "echo"',
            ("4: providers.m: m is a model of echo and of m; keep it in one of them; m/m works without being listed"),
        ),
        ('[providers.e]\nkind = "echo"\nmodels = ["m", "m"]', "3: providers.e.models[1]: listed twice"),
        ('[providers.e]\nkind = "echo"\nmodels = [" "]', "3: providers.e.models[0]: is empty"),
        (
            '[providers."a/b"]\nkind = "echo"',
            (
                '1: providers."a/b": not a valid provider name; '
                "use letters, digits, -, _ and ., beginning with a letter or digit"
            ),
        ),
        (
            '[providers.e]\nkind = "echo"\napi_key = "k"',
            '3: providers.e.api_key: kind = "echo" does not use it; remove it',
        ),
        (
            '[providers.e]\nkind = "local"\nbase_url = "http://x"',
            '3: providers.e.base_url: kind = "local" does not use it; remove it',
        ),
        ('[providers.e]\nkind = "local"\npath = "/no/w.gguf"', "3: providers.e.path: there is no file /no/w.gguf"),
        (
            '[providers.e]\nkind = "scripted"',
            "1: providers.e.path: missing; set it to the file with the scripted answers",
        ),
        (
            '[providers.e]\nkind = "openai"\nbase_url = "api.example.com/v1"',
            '3: providers.e.base_url: not an http or https URL; for example "https://api.openai.com/v1"',
        ),
        (
            '[providers.e]\nkind = "openai"\nbase_url = "http://[x/v1"',
            '3: providers.e.base_url: not an http or https URL; for example "https://api.openai.com/v1"',
        ),
        (
            '[providers.e]\nkind = "openai"\nbase_url = "http://u:p@x/v1"',
            "3: providers.e.base_url: the URL must not contain a password; use api_key or headers",
        ),
        (
            '[providers.e]\nkind = "openai"\nbase_url = "http://x/v1?a=b"',
            "3: providers.e.base_url: the URL must not contain ? or #; paths are appended to it",
        ),
        (
            f'{ECHO}[models."echo/x"]\ncontext_window = 9',
            '5: models."echo/x".context_window: available only for models of a local provider; remove it',
        ),
        (
            "[agents.Researcher]",
            (
                "1: agents.Researcher: not a valid agent name; "
                "use at most 64 lower-case letters, digits, - and _, beginning with a letter or digit"
            ),
        ),
        ('[agents.x]\nworkspace = "walrus.toml"', "2: agents.x.workspace: HOME/walrus.toml is not a folder"),
        (
            '[permissions]\ndeny = ["read", "read(src/**)"]',
            '2: permissions.deny[1]: "read(src/**)" is not a valid tool name; patterns are not available yet',
        ),
        (
            '[permissions]\nallow = ["bash(git *)"]',
            '2: permissions.allow[0]: "bash(git *)" is not a valid tool name; patterns are not available yet',
        ),
        (
            '[agents.x.permissions]\nallow = ["*"]',
            '2: agents.x.permissions.allow[0]: "*" is not a valid tool name; patterns are not available yet',
        ),
        (
            '[daemon]\nsocket = "' + "s" * 108 + '"',
            (
                "2: daemon.socket: the path of the socket has SIZE bytes; "
                "the system allows at most 107; choose a shorter one"
            ),
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_with_their_line(
    home: Path, load_errors: LoadErrors, text: str, message: str
) -> None:
    message = message.replace("HOME", str(home)).replace("SIZE", str(len(str(home)) + 109))
    assert load_errors(text)[0] == f"walrus.toml:{message}".replace(f"{home}/", "")


def test_all_errors_are_reported_together_in_order(home: Path, load_errors: LoadErrors) -> None:
    (home / "agents/a.md").write_text("---\nmodle: x\n---\n")
    (home / "agents/B.md").write_text("")
    assert load_errors(
        "[agents.x]\ntool = []\n[daemon]\nlog_level = 1\nmax_conections = 1\n[mcps.x]\nchain = true"
    ) == [
        (
            "agents/B.md: the file name is not a valid agent name; use at most 64 lower-case letters, "
            "digits, - and _, beginning with a letter or digit; rename it, or move it out of agents/"
        ),
        "agents/a.md:2: modle: unknown key; did you mean model?",
        "walrus.toml:2: agents.x.tool: unknown key; did you mean tools?",
        "walrus.toml:4: daemon.log_level: expected text, not a whole number",
        "walrus.toml:5: daemon.max_conections: unknown key; did you mean max_connections?",
        "walrus.toml:6: mcps: not available yet; remove it",
    ]


def test_lines_are_correct_in_a_file_with_a_bom_and_crlf_line_ends(load_errors: LoadErrors) -> None:
    assert load_errors("\ufeff[daemon]\r\n\r\nsockt = 'x'\r\n") == [
        "walrus.toml:3: daemon.sockt: unknown key; did you mean socket?"
    ]


def test_an_error_has_separate_fields_for_programs(home: Path, load_toml: LoadToml) -> None:
    with pytest.raises(ConfigError) as refused:
        load_toml("[deamon]")
    assert refused.value.problems == (
        ConfigProblem(str(home / "walrus.toml"), 1, "deamon", "unknown key", "did you mean daemon?"),
    )


def load_error(home: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        load(home, environ={})
    return str(refused.value)


def test_the_error_for_a_missing_file_says_how_to_create_it(home: Path) -> None:
    message = f"{home}/walrus.toml: there is no such file; create it with `walrusd --init`; an empty file is enough"
    assert load_error(home) == message


def test_a_folder_or_a_pipe_in_place_of_the_file_is_refused(home: Path) -> None:
    message = f"{home}/walrus.toml: not a regular file; replace it by a text file"
    (home / "walrus.toml").mkdir()
    assert load_error(home) == message
    (home / "walrus.toml").rmdir()
    os.mkfifo(home / "walrus.toml")
    assert load_error(home) == message


def test_a_file_that_cannot_be_read_is_refused(home: Path) -> None:
    (home / "walrus.toml").symlink_to("walrus.toml")
    assert load_error(home).startswith(f"{home}/walrus.toml: cannot be read: Too many levels of symbolic links; ")


def test_bytes_that_are_not_utf_8_are_refused_with_their_line(home: Path) -> None:
    (home / "walrus.toml").write_bytes(b"# \xc3\xbc\n# caf\xe9\n")
    assert load_error(home) == f"{home}/walrus.toml:2: a byte here is not UTF-8; save the file as UTF-8"
