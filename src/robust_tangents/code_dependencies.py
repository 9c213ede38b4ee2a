"""Which files of this repository a script is made of, so that jobs depend on their own code and no other."""

import ast
from functools import cache
from pathlib import Path

PACKAGE = "robust_tangents"


@cache
def _imports(path: Path) -> tuple[str, ...]:
    """Dotted names that a file imports; of ``from a import b`` both a and a.b, since b may be a module."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(names)


def imported_files(script: Path, source: Path) -> list[Path]:
    """The script and every file that it imports, directly or not, from its own folder and from ``source``.

    Follows imports anywhere in a file, also inside functions. The package's own ``__init__`` is left out: it holds
    nothing but the version, and a new version number is no reason to compute again.

    Args:
        script: path of the script.
        source: folder that holds the package.

    Returns:
        The script first, then the others in alphabetical order.
    """
    found: set[Path] = set()
    queue = [script]
    while queue:
        path = queue.pop()
        if path in found or not path.is_file() or path == source / PACKAGE / "__init__.py":
            continue
        found.add(path)
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] == PACKAGE:
                # Importing a.b.c runs a/__init__, a/b/__init__ and a/b/c.
                for depth in range(1, len(parts) + 1):
                    target = source.joinpath(*parts[:depth])
                    queue += [target.with_suffix(".py"), target / "__init__.py"]
            else:
                queue.append(script.with_name(f"{name}.py"))
    return [script, *sorted(found - {script})]
