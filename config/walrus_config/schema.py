"""The Structs of walrus.toml: every key, with its type, bounds and default.

Only `load` creates them from the file. A Config is always complete: secrets are resolved, agents are merged from
defaults, TOML and prompt files, and paths are absolute.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

_MAX_NUMBER = 1_000_000_000
"""Maximum of most numbers: thirty years in seconds, more than any sensible value; excludes infinity."""
Seconds = Annotated[float, Meta(gt=0, le=_MAX_NUMBER)]
Count = Annotated[int, Meta(ge=1, le=_MAX_NUMBER)]
_MIN_DB_BYTES = 1024 * 1024
"""Minimum bytes of `max_db_bytes`: a lower value is a mistake, which would delete all closed sessions."""
_MINUTES_PER_YEAR = 525_600
UsdPerMillionTokens = Annotated[float, Meta(ge=0, le=_MAX_NUMBER)]

KNOWN_TOOLS = frozenset({"bash", "read"})
"""The built-in tools of walrusd; other names in a list of tools are accepted with a warning."""
OPENAI_URL = "https://api.openai.com/v1"


class Secret:
    """A text that prints as ***. `reveal` is called only at the place of use."""

    __slots__ = ("_text", "parts")

    def __init__(self, text: str, parts: tuple[str, ...] = ()) -> None:
        """`parts` are the environment values inside the text; each is a secret by itself."""
        self._text = text
        self.parts = parts

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of walrus.toml."""


class DaemonSettings(Section, frozen=True, kw_only=True):
    socket: str = ""
    """The socket path; empty means walrus.sock in the home."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"
    idle_evict_s: Seconds = 600.0
    """Seconds that an idle session stays in memory."""
    shutdown_grace_s: Annotated[float, Meta(ge=0, le=_MAX_NUMBER)] = 10.0
    max_connections: Count = 512
    max_running_turns: Count = 64


class ProviderSettings(Section, frozen=True, kw_only=True):
    kind: Literal["openai", "local", "scripted", "echo"]
    base_url: str = ""
    """The URL of an openai provider; OPENAI_URL if the file sets none."""
    api_key: Secret | None = None
    """The API key. After loading, `${NAME}` is replaced, and the content of `api_key_file` is here."""
    api_key_file: str = ""
    """A file with the key, or credential:NAME; absolute after loading."""
    models: tuple[str, ...] = ()
    headers: Mapping[str, Secret] = field(default_factory=dict)
    timeout_s: Seconds = 600.0
    """Maximum seconds of one exchange, without retries."""
    idle_timeout_s: Seconds = 60.0
    """Maximum seconds without data from a stream."""
    max_retries: Annotated[int, Meta(ge=0, le=10)] = 2
    path: str = ""
    """The weights (.gguf) of a local model, or the script of a scripted one; absolute after loading."""


class PriceSettings(Section, frozen=True, kw_only=True):
    """Prices in US dollars per million tokens."""

    input: UsdPerMillionTokens = 0.0
    output: UsdPerMillionTokens = 0.0
    cache_read: UsdPerMillionTokens | None = None
    """None: the same as `input`."""
    cache_write: UsdPerMillionTokens | None = None


class ModelSettings(Section, frozen=True, kw_only=True):
    context_window: Count | None = None
    """Tokens of context that a local model is started with; other providers set their own."""
    max_output_tokens: Count | None = None
    price: PriceSettings | None = None
    """None: the price, and so the cost of a call, is unknown."""


class PermissionSettings(Section, frozen=True, kw_only=True):
    """Permissions by tool name.

    `deny` takes precedence over `allow`; `default` applies to tools in neither list.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    default: Literal["allow", "deny"] | None = None
    """None: the default of the next tier applies; if no tier has one, it is deny."""


class HeartbeatSettings(Section, frozen=True, kw_only=True):
    """An agent's heartbeat: the clock starts a turn with this prompt."""

    interval: Annotated[float, Meta(ge=0, le=_MINUTES_PER_YEAR)] = 0.0
    """Minutes between two ticks; 0 means off."""
    prompt: str = ""
    """The message to the agent; empty means the default prompt of walrusd."""
    session: Literal["new", "same"] = "new"
    probe: str = ""
    """A shell command; the model is called only if its output differs from the last time."""
    quiet_hours: tuple[str, ...] = ()
    """Start and end, as HH:MM in local time; empty means no quiet hours."""
    jitter_s: Annotated[float, Meta(ge=0, le=_MAX_NUMBER)] = 0.0
    """Maximum seconds by which a tick is delayed; the delay differs from tick to tick."""


class BaseAgentSettings(Section, frozen=True, kw_only=True):
    """The keys of [defaults], of [agents.NAME] and of the front matter of agents/NAME.md."""

    description: str = ""
    model: str = ""
    max_iterations: Count = 16
    thinking: bool = False
    members: tuple[str, ...] = ()
    skills: tuple[str, ...] = ()
    mcps: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    deny_tools: tuple[str, ...] = ()
    workspace: str = ""
    """The agent's working folder, absolute after loading; the default is workspace/ in the home."""
    permissions: PermissionSettings = PermissionSettings()
    heartbeat: HeartbeatSettings = HeartbeatSettings()


class AgentSettings(BaseAgentSettings, frozen=True, kw_only=True):
    """A complete agent, merged from [defaults], [agents.NAME], front matter and prompt file."""

    name: str
    system_prompt: str = ""


class ToolSettings(Section, frozen=True, kw_only=True):
    enabled: bool = True
    timeout_s: Seconds | None = None
    """Maximum seconds of a call; None means the tool's own limit."""
    max_output_bytes: Annotated[int, Meta(ge=256, le=1024 * 1024)] | None = None
    sandbox: Literal["none"] | None = None
    """Only for bash, which is offered only if the user has set "none": it runs without a sandbox."""


class SessionSettings(Section, frozen=True, kw_only=True):
    on_restart: Literal["continue", "close"] = "continue"


class StorageSettings(Section, frozen=True, kw_only=True):
    durability: Literal["full", "normal"] = "full"
    retain_closed_days: Annotated[float, Meta(gt=0, le=_MAX_NUMBER)] | None = None
    """Days after which closed sessions are deleted; None means never."""
    max_db_bytes: Annotated[int, Meta(ge=_MIN_DB_BYTES, le=2**53 - 1)] | None = None
    """Maximum bytes of the database; None means no limit but the disk's."""
    chain: bool = False
    """Whether each event is linked to the one before it by a hash."""


class RawConfig(Section, frozen=True, kw_only=True):
    """The content of walrus.toml and of front matter, before defaults are merged and secrets resolved."""

    daemon: DaemonSettings = DaemonSettings()
    defaults: BaseAgentSettings = BaseAgentSettings()
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict)
    models: Mapping[str, ModelSettings] = field(default_factory=dict)
    agents: Mapping[str, BaseAgentSettings] = field(default_factory=dict)
    permissions: PermissionSettings = PermissionSettings()
    tools: Mapping[str, ToolSettings] = field(default_factory=dict)
    sessions: SessionSettings = SessionSettings()
    storage: StorageSettings = StorageSettings()


class Config(Section, frozen=True, kw_only=True):
    """The complete configuration of walrusd."""

    home: str
    path: str
    """The walrus.toml it was read from."""
    daemon: DaemonSettings = DaemonSettings()
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict)
    models: Mapping[str, ModelSettings] = field(default_factory=dict)
    agents: Mapping[str, AgentSettings] = field(default_factory=dict)
    permissions: PermissionSettings = PermissionSettings()
    tools: Mapping[str, ToolSettings] = field(default_factory=dict)
    sessions: SessionSettings = SessionSettings()
    storage: StorageSettings = StorageSettings()
    warnings: tuple[str, ...] = ()


def is_bash_offered(tools: Mapping[str, ToolSettings]) -> bool:
    """Returns whether bash is enabled and the user has accepted that it runs without a sandbox."""
    return "bash" in tools and tools["bash"].enabled and tools["bash"].sandbox == "none"
