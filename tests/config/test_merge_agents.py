"""Tests of loaded agents: defaults, tables, front matter and prompt files are merged and checked."""

import os
from pathlib import Path

import pytest

from tests.config.conftest import LoadErrors, LoadToml
from walrus_config.scaffold import BUILT_IN_DESCRIPTION, BUILT_IN_PROMPT
from walrus_config.schema import AgentSettings, PermissionSettings

ECHO = '[providers.echo]\nkind = "echo"\nmodels = ["m", "n"]\n'


def test_the_agent_walrus_is_built_in(home: Path, load_toml: LoadToml) -> None:
    assert load_toml().agents == {
        "walrus": AgentSettings(
            name="walrus",
            description=BUILT_IN_DESCRIPTION,
            system_prompt=BUILT_IN_PROMPT,
            workspace=str(home / "workspace"),
        )
    }


def test_an_agent_walrus_defined_by_the_user_replaces_the_built_in_one(home: Path, load_toml: LoadToml) -> None:
    (home / "agents/walrus.md").write_text("I am mine.\n")
    config = load_toml(ECHO + '[agents.walrus]\ndescription = "Mine"\nmodel = "m"')
    assert config.agents == {
        "walrus": AgentSettings(
            name="walrus",
            description="Mine",
            model="m",
            system_prompt="I am mine.",
            workspace=str(home / "workspace"),
        )
    }
    assert config.warnings == ()


def test_a_prompt_file_without_a_table_is_an_agent_with_the_defaults(home: Path, load_toml: LoadToml) -> None:
    (home / "agents/poet.md").write_text("\n# You write poems\n\n---\nOf few words.\n")
    (home / "agents/notes.txt").write_text("not a prompt")
    (home / "agents/.poet.md.swp").write_text("")
    (home / "agents/.#poet.md").symlink_to("nowhere")
    config = load_toml(ECHO + '[defaults]\nmodel = "m"\nmax_iterations = 3')
    assert list(config.agents) == ["walrus", "poet"]
    assert config.agents["poet"] == AgentSettings(
        name="poet",
        model="m",
        max_iterations=3,
        system_prompt="# You write poems\n\n---\nOf few words.",
        workspace=str(home / "workspace"),
    )


def test_tables_without_prompt_files_get_generated_prompts_and_one_common_warning(
    home: Path, load_toml: LoadToml
) -> None:
    config = load_toml(ECHO + '[defaults]\nmodel = "m"\n[agents.helper]\ndescription = "Helps out"\n[agents.idler]')
    assert config.agents["helper"].system_prompt == "You are helper, an agent. Helps out"
    assert config.warnings == (
        (
            f"{home}/walrus.toml:6: agents: agents without a prompt file: helper, idler; "
            "write agents/NAME.md; until then the prompt is made from the description"
        ),
    )


def test_a_prompt_file_without_text_gets_a_generated_prompt_and_a_warning(home: Path, load_toml: LoadToml) -> None:
    (home / "agents/helper.md").write_text("+++\ndescription = 'Helps'\n+++\n\n")
    config = load_toml()
    assert config.agents["helper"].system_prompt == "You are helper, an agent. Helps"
    assert f"{home}/agents/helper.md has no text: its system prompt" in config.warnings[0]


def test_an_agent_overrides_defaults_key_by_key_also_with_built_in_defaults(load_toml: LoadToml) -> None:
    config = load_toml(
        ECHO
        + """
[defaults]
model = "m"
thinking = true
tools = ["read"]
permissions = { allow = ["read"], default = "allow" }
[agents.walrus]
thinking = false
tools = []
[agents.walrus.permissions]
default = "deny"
"""
    )
    walrus = config.agents["walrus"]
    assert (walrus.model, walrus.thinking, walrus.tools) == ("m", False, ())
    assert walrus.permissions == PermissionSettings(allow=("read",), default="deny")


@pytest.mark.parametrize(
    "front_matter",
    [
        '+++\nmodel = "n"\ntools = [\n  "read",\n]\npermissions.allow = ["read"]\n+++\n',
        "---\nmodel: n\ntools:\n  - read\npermissions:\n  allow: [read]\n---  \n",
        "---\r\nmodel: n\r\ntools: [read]\r\npermissions: {allow: [read]}\r\n---\r\n",
        "\ufeff---\nmodel: n\ntools: &t [read]\npermissions: {allow: *t}\n---\n",
    ],
)
def test_front_matter_has_the_same_keys_in_toml_and_in_yaml(home: Path, load_toml: LoadToml, front_matter: str) -> None:
    (home / "agents/helper.md").write_bytes(f"{front_matter}\nYou help.\n".encode())
    assert load_toml(ECHO + '[agents.helper]\ndescription = "Helps"').agents["helper"] == AgentSettings(
        name="helper",
        description="Helps",
        model="n",
        tools=("read",),
        permissions=PermissionSettings(allow=("read",)),
        system_prompt="You help.",
        workspace=str(home / "workspace"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("---\nmodel: m\n", ":1: the front matter begins with --- and does not end; add a line --- after it"),
        ("+++\nmodel = m\n+++\n", ":2: invalid value; this is not TOML"),
        ("+++\n\nthinking = 1\n+++\n", ":3: thinking: expected true or false, not a whole number"),
        ("---\ntools:\n  - read\n  - 7\n---\n", ":4: tools[1]: expected text, not a whole number"),
        ("---\nthinking:\n---\n", ":2: thinking: has no value"),
        ("---\ndescription: a\nmodel: [\n---\n", ":3: expected the node content, but found '<stream end>'; "),
        ("---\nmodel: m\nmodel: n\n---\n", ":3: model: set twice; it is also in line 2"),
        (
            "---\nA rule above, a rule below.\n---\n",
            ":2: the front matter is not a table of keys; write key: value, or begin the file with a line other",
        ),
        ("---\n1: x\n---\n", ":2: the front matter is not a table of keys; write key: value, or begin the file with"),
        ("---\nthinking: !!bool maybe\n---\n", ": the front matter is not YAML: "),
        ("---\nmodel: !!python/object:os.system x\n---\n", ":2: could not determine a constructor for the tag "),
        ("---\npermissions: {2: 3}\n---\n", ":2: permissions.2: unknown key; known here: allow, default, deny"),
        ('---\ndescription: "a\\uD800"\n---\n', ":2: description: contains a control character"),
        ("---\nbudget: {usd_per_turn: 1}\n---\n", ":2: budget: not available yet; remove it"),
        ("a\x00b", ": contains a NUL character; a prompt must be plain text"),
        ("x" * 262_145, ": larger than 262,144 bytes; check that it is the right file"),
    ],
)
def test_invalid_front_matter_is_refused_with_its_line(
    home: Path, load_errors: LoadErrors, text: str, message: str
) -> None:
    (home / "agents/helper.md").write_text(text)
    (problem,) = load_errors()
    assert problem.startswith(f"agents/helper.md{message}")


def test_a_key_in_both_places_is_refused_and_both_are_named(home: Path, load_errors: LoadErrors) -> None:
    (home / "agents/helper.md").write_text("---\nmodel: m\n---\nx")
    message = "agents/helper.md:2: model: also set in walrus.toml:6; keep one of the two"
    assert load_errors(ECHO + '\n[agents.helper]\nmodel = "m"') == [message]


def test_a_contradiction_in_front_matter_is_reported_with_the_prompt_file(home: Path, load_errors: LoadErrors) -> None:
    (home / "agents/helper.md").write_text("---\nthinking: true\nmodel: o\n---\nx")
    assert load_errors(ECHO) == ['agents/helper.md:3: model: no provider has the model "o"; known here: m, n']


def test_a_prompt_file_that_cannot_be_read_is_refused(home: Path, load_errors: LoadErrors) -> None:
    (home / "agents/a.md").mkdir()
    (home / "agents/b.md").symlink_to("nowhere")
    (home / "agents/c.md").write_bytes(b"a\n\xff")
    os.mkfifo(home / "agents/d.md")
    assert load_errors() == [
        "agents/a.md: not a regular file; replace it by a text file",
        "agents/b.md: is a link to a missing file",
        "agents/c.md:2: a byte here is not UTF-8; save the file as UTF-8",
        "agents/d.md: not a regular file; replace it by a text file",
    ]


def test_a_file_in_place_of_the_agents_folder_is_refused(home: Path, load_errors: LoadErrors) -> None:
    (home / "agents").rmdir()
    assert load_errors.__name__  # the folder may be missing, but it must not be a file
    (home / "agents").write_text("")
    assert load_errors() == [
        "agents: cannot be read: Not a directory; it must be a folder with a .md file for each agent"
    ]


def test_a_home_without_an_agents_folder_has_the_agent_walrus(home: Path, load_toml: LoadToml) -> None:
    (home / "agents").rmdir()
    assert list(load_toml().agents) == ["walrus"]


def test_nonempty_members_skills_and_mcps_are_accepted_with_a_warning(home: Path, load_toml: LoadToml) -> None:
    config = load_toml(ECHO + '[defaults]\nmodel = "m"\nskills = []\nmembers = ["x"]\n[agents.walrus]\nmcps = ["y"]')
    assert config.warnings == (
        f"{home}/walrus.toml:7: defaults.members: accepted, but has no effect yet",
        f"{home}/walrus.toml:9: agents.walrus.mcps: accepted, but has no effect yet",
    )
    assert (config.agents["walrus"].members, config.agents["walrus"].mcps) == (("x",), ("y",))


def test_agents_without_a_model_are_named_in_one_warning(home: Path, load_toml: LoadToml) -> None:
    (home / "agents/poet.md").write_text("Rhyme.")
    (home / "agents/other.md").write_text("---\nmodel: m\n---\nSpeak.")
    assert load_toml(ECHO).warnings == (
        (
            f"{home}/walrus.toml: defaults.model: not set, and these agents name no model: "
            "walrus, poet; set one; until then these agents answer with an error"
        ),
    )


def test_an_agent_without_a_model_uses_the_only_model(load_toml: LoadToml) -> None:
    assert load_toml('[providers.echo]\nkind = "echo"').warnings == ()


def test_without_any_provider_a_named_model_is_not_an_error(home: Path, load_toml: LoadToml) -> None:
    config = load_toml('[agents.walrus]\nmodel = "m"')
    assert config.warnings == (
        (
            f"{home}/walrus.toml: providers: none is configured, so agents answer with an error; "
            "write a [providers.NAME] table, as in the sample"
        ),
    )


def test_workspaces_are_absolute_and_missing_ones_give_a_warning(home: Path, load_toml: LoadToml) -> None:
    text = ECHO + '[defaults]\nmodel = "m"\nworkspace = "shared"\n[agents.walrus]\nworkspace = "~/w/../work"'
    (home / "agents/poet.md").write_text("Rhyme.")
    (home / "agents/scout.md").write_text("Look ahead.")
    (home / "user/work").mkdir(parents=True)
    config = load_toml(text, HOME=str(home / "user"))
    assert {name: agent.workspace for name, agent in config.agents.items()} == {
        "walrus": str(home / "user/work"),
        "poet": str(home / "shared"),
        "scout": str(home / "shared"),
    }
    assert config.warnings == (
        (
            f"{home}/walrus.toml:6: defaults.workspace: there is no folder {home}/shared "
            "for poet, scout to work in; create it"
        ),
    )


def test_unknown_tools_give_a_warning_in_every_list_of_tools(home: Path, load_toml: LoadToml) -> None:
    config = load_toml(
        ECHO
        + """[defaults]
model = "m"
[permissions]
deny = ["raed"]
[agents.walrus]
deny_tools = ["read", "write"]
permissions.allow = ["frob"]
[tools.read]
enabled = false
[tools.grep]
"""
    )
    file = f"{home}/walrus.toml"
    assert set(config.warnings) == {
        f"{file}:7: permissions.deny[0]: no tool is called raed; did you mean read?",
        f"{file}:9: agents.walrus.deny_tools[1]: no tool is called write; known here: bash, read",
        f"{file}:10: agents.walrus.permissions.allow[0]: no tool is called frob; known here: bash, read",
        f"{file}:13: tools.grep: no tool is called grep; known here: bash, read",
    }


def test_bash_gives_a_warning_if_it_is_offered_and_if_it_is_left_out(home: Path, load_toml: LoadToml) -> None:
    start, file = ECHO + '[defaults]\nmodel = "m"\n', f"{home}/walrus.toml"
    assert load_toml(start + '[tools.bash]\nsandbox = "none"\n[permissions]\nallow = ["bash"]').warnings == (
        (
            f"{file}:7: tools.bash.sandbox: bash runs without a sandbox and can do whatever you can do; "
            "so can every agent that is permitted to use it"
        ),
    )
    assert load_toml(start + '[tools.bash]\ntimeout_s = 5\n[permissions]\nallow = ["bash"]').warnings == (
        (
            f"{file}:6: tools.bash: bash is not offered: there is no sandbox for it yet; "
            'sandbox = "none" offers it without one'
        ),
    )
    assert load_toml(start + '[permissions]\nallow = ["bash"]\ndeny = ["bash"]').warnings == (
        f'{file}:7: permissions.allow[0]: bash is not offered; it needs [tools.bash] sandbox = "none"; see the sample',
    )
    assert load_toml(start + "[tools.bash]\nenabled = false").warnings == ()


def test_a_key_of_bash_is_unknown_for_other_tools(load_errors: LoadErrors) -> None:
    hint = "unknown key; known here: enabled, max_output_bytes, timeout_s"
    assert load_errors('[tools.read]\nsandbox = "none"\n[tools.grep]\nsandbox = "auto"') == [
        f"walrus.toml:2: tools.read.sandbox: {hint}",
        f"walrus.toml:4: tools.grep.sandbox: {hint}",
    ]


def test_tools_of_an_mcp_server_can_be_named_in_every_list(home: Path, load_toml: LoadToml) -> None:
    config = load_toml(
        ECHO
        + """[defaults]
model = "m"
[permissions]
allow = ["mcp:github:*"]
deny = ["mcp:git-hub:create_*"]
[agents.walrus]
tools = ["read", "mcp:github:get_issue"]
"""
    )
    assert config.permissions == PermissionSettings(allow=("mcp:github:*",), deny=("mcp:git-hub:create_*",))
    file = f"{home}/walrus.toml"
    assert config.warnings == (
        f"{file}:10: agents.walrus.tools[1]: no tool is called mcp:github:get_issue; known here: bash, read",
        f"{file}:7: permissions.allow[0]: no tool is called mcp:github:*; known here: bash, read",
        f"{file}:8: permissions.deny[0]: no tool is called mcp:git-hub:create_*; known here: bash, read",
    )


@pytest.mark.parametrize(
    "name", ["mcp:*", "mcp:github", "mcp:github:", "mcp:Git_Hub:x", "mcp:*:x", "mcp:a:b c", "a:b:c"]
)
def test_other_names_with_colons_are_refused(load_errors: LoadErrors, name: str) -> None:
    assert load_errors(f'[permissions]\ndeny = ["{name}"]') == [
        f'walrus.toml:2: permissions.deny[0]: "{name}" is not a valid tool name; patterns are not available yet'
    ]


def test_a_table_of_tools_has_the_name_of_one_tool(load_errors: LoadErrors) -> None:
    assert load_errors('[tools."mcp:github:*"]') == [
        'walrus.toml:1: tools."mcp:github:*": "mcp:github:*" is not a valid tool name; patterns are not available yet'
    ]
