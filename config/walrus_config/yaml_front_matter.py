"""Parses YAML front matter to a table and the lines of its keys.

PyYAML is imported only if a prompt file needs it.
"""

from typing import TYPE_CHECKING

from walrus_config.diagnostics import format_key_path
from walrus_config.errors import ConfigError, ConfigProblem, config_error
from walrus_config.toml_positions import KeyPath

if TYPE_CHECKING:
    from yaml import Node


def parse_yaml(file: str, text: str, *, first_line: int) -> tuple[dict[str, object], dict[KeyPath, int]]:
    """Returns the mapping of a YAML text that begins at `first_line` of `file`, and its lines.

    Raises ConfigError.
    """
    import yaml

    lines: dict[KeyPath, int] = {}
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        table = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = None if error.problem_mark is None else first_line + error.problem_mark.line
        message = error.problem or error.context or "broken"
        raise ConfigError([ConfigProblem(file, line, "", message, "this is not YAML")]) from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        # PyYAML's constructors raise the last five for scalars that do not fit their tag.
        raise config_error(file, f"the front matter is not YAML: {error}") from error
    if table is None:
        return {}, {}
    if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
        message = "the front matter is not a table of keys"
        hint = "write key: value, or begin the file with a line other than ---"
        raise ConfigError([ConfigProblem(file, first_line, "", message, hint)])
    _record_lines(file, node, (), first_line, lines, set())
    return table, lines


def _record_lines(
    file: str, node: "Node | None", key_path: KeyPath, first_line: int, lines: dict[KeyPath, int], seen: set[int]
) -> None:
    """Records the lines of all keys and elements under `node`; a node that aliases repeat is visited once.

    Raises ConfigError for a repeated key.
    """
    import yaml

    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*key_path, str(key.value))
            line = first_line + key.start_mark.line
            if path in lines:
                hint = f"it is also in line {lines[path]}"
                raise ConfigError([ConfigProblem(file, line, format_key_path(path), "set twice", hint)])
            lines[path] = line
            _record_lines(file, value, path, first_line, lines, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, entry in enumerate(node.value):
            lines[*key_path, index] = first_line + entry.start_mark.line
            _record_lines(file, entry, (*key_path, index), first_line, lines, seen)
