"""The Structs of walrus.toml, with every default. What is not here is not a key.

`load` fills them; nothing else reads the file. A Config that exists is whole: secrets are resolved, agents are
merged from defaults, TOML and prompt files, paths are absolute.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

_MAX_NUMBER = 1_000_000_000
"""Above every number that means something here (thirty years of seconds); it keeps infinity out."""
Seconds = Annotated[float, Meta(gt=0, le=_MAX_NUMBER)]
Count = Annotated[int, Meta(ge=1, le=_MAX_NUMBER)]
_MIN_DB_BYTES = 1024 * 1024
"""What is less is a slip: it would throw away all that is closed."""
_MINUTES_PER_YEAR = 525_600
UsdPerMillionTokens = Annotated[float, Meta(ge=0, le=_MAX_NUMBER)]

KNOWN_TOOLS = frozenset({"bash", "read"})
"""The tools that walrusd brings along; another name in a list of tools is taken with a warning."""
OPENAI_URL = "https://api.openai.com/v1"


class Secret:
    """A text that prints as stars. `reveal` is called where it is used, and nowhere else."""

    __slots__ = ("_text", "parts")

    def __init__(self, text: str, parts: tuple[str, ...] = ()) -> None:
        """`parts` are what is secret by itself: the values of the environment that stand in the text."""
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
    """Empty: walrus.sock in the home."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"
    idle_evict_s: Seconds = 600.0
    """How long a session that nobody uses stays in memory."""
    shutdown_grace_s: Annotated[float, Meta(ge=0, le=_MAX_NUMBER)] = 10.0
    max_connections: Count = 512
    max_running_turns: Count = 64


class ProviderSettings(Section, frozen=True, kw_only=True):
    kind: Literal["openai", "local", "scripted", "echo"]
    base_url: str = ""
    """Of an openai provider; OPENAI_URL where the file names none."""
    api_key: Secret | None = None
    """Resolved: `${NAME}` is replaced, and the content of `api_key_file` stands here."""
    api_key_file: str = ""
    """A file with the key, or credential:NAME; absolute after loading."""
    models: tuple[str, ...] = ()
    headers: Mapping[str, Secret] = field(default_factory=dict)
    timeout_s: Seconds = 600.0
    """One whole exchange, retries not counted."""
    idle_timeout_s: Seconds = 60.0
    """The longest silence of a stream."""
    max_retries: Annotated[int, Meta(ge=0, le=10)] = 2
    path: str = ""
    """The weights (.gguf) of a local model, or the script of a scripted one; absolute after loading."""


class PriceSettings(Section, frozen=True, kw_only=True):
    """US dollars per million tokens."""

    input: UsdPerMillionTokens = 0.0
    output: UsdPerMillionTokens = 0.0
    cache_read: UsdPerMillionTokens | None = None
    """None: as input."""
    cache_write: UsdPerMillionTokens | None = None


class ModelSettings(Section, frozen=True, kw_only=True):
    context_window: Count | None = None
    """The window a local model is started with. Other providers know their own."""
    max_output_tokens: Count | None = None
    price: PriceSettings | None = None
    """None: unknown, and so is what a call costs."""


class PermissionSettings(Section, frozen=True, kw_only=True):
    """Tool names. deny beats allow; what neither names gets the default."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    default: Literal["allow", "deny"] | None = None
    """None: as the tier above says; deny where none does."""


class HeartbeatSettings(Section, frozen=True, kw_only=True):
    """When an agent is woken without being asked, and what it is told."""

    interval: Annotated[float, Meta(ge=0, le=_MINUTES_PER_YEAR)] = 0.0
    """Minutes; 0 is off."""
    prompt: str = ""
    """Empty: walrusd's own."""
    session: Literal["new", "same"] = "new"
    probe: str = ""
    """A shell command; the model is called only where it says something else than before."""
    quiet_hours: tuple[str, ...] = ()
    """From and until, as HH:MM of the local time; none where empty."""
    jitter_s: Annotated[float, Meta(ge=0, le=_MAX_NUMBER)] = 0.0


class BaseAgentSettings(Section, frozen=True, kw_only=True):
    """What may stand in [defaults], in [agents.NAME] and in the front matter of agents/NAME.md."""

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
    """Absolute after loading; the default is workspace/ in the home."""
    permissions: PermissionSettings = PermissionSettings()
    heartbeat: HeartbeatSettings = HeartbeatSettings()


class AgentSettings(BaseAgentSettings, frozen=True, kw_only=True):
    """An agent after merging: [defaults], [agents.NAME], front matter and prompt file."""

    name: str
    system_prompt: str = ""


class ToolSettings(Section, frozen=True, kw_only=True):
    enabled: bool = True
    timeout_s: Seconds | None = None
    """None: as the tool says."""
    max_output_bytes: Annotated[int, Meta(ge=256, le=1024 * 1024)] | None = None
    sandbox: Literal["none"] | None = None
    """Of bash, which is offered only where the user has written that it runs without one."""


class SessionSettings(Section, frozen=True, kw_only=True):
    on_restart: Literal["continue", "close"] = "continue"


class StorageSettings(Section, frozen=True, kw_only=True):
    durability: Literal["full", "normal"] = "full"
    retain_closed_days: Annotated[float, Meta(gt=0, le=_MAX_NUMBER)] | None = None
    """None: for ever."""
    max_db_bytes: Annotated[int, Meta(ge=_MIN_DB_BYTES, le=2**53 - 1)] | None = None
    """None: as many as the disk has."""
    chain: bool = False
    """Whether each event is chained to the one before it."""


class RawConfig(Section, frozen=True, kw_only=True):
    """walrus.toml as it stands, the front matter of prompts put into its agents: nothing resolved, nothing merged."""

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
    """Everything walrusd runs by."""

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
    return "bash" in tools and tools["bash"].enabled and tools["bash"].sandbox == "none"
