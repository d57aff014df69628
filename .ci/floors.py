"""Prints pip constraints that pin dependencies to the lowest allowed versions.

They cover each run-time dependency of a pyproject.toml.
"""

import re
import sys
import tomllib
from pathlib import Path


def floors(pyproject: Path) -> list[str]:
    """Returns `name==version` for each dependency; raises ValueError if one has no floor."""
    found = []
    for requirement in tomllib.loads(pyproject.read_text())["project"]["dependencies"]:
        name, floor = re.match(r"([\w.-]+)(?:.*>=([\d.]+))?", requirement).groups()
        if floor is None:
            raise ValueError(f"{requirement} has no lowest version; add >=")
        found.append(f"{name}=={floor}")
    return found


if __name__ == "__main__":
    print("\n".join(floors(Path(sys.argv[1]))))
