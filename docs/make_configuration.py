"""Write docs/configuration.md from the schema of the configuration: `make docs`."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "workflow" / "schemas" / "config.schema.json").read_text())

INTRODUCTION = """# Configuration

Made by `make docs` from `workflow/schemas/config.schema.json`, against which every configuration is checked before
anything runs. `config.yaml` is the default study, with comments; the files in `presets/`, and your own, are merged over
it in the order in which `--configfile` names them. Keys without a default must be given. `null` in place of a run, a
measurement of collapse or a figure leaves it out.
"""

SECTIONS = {
    "data": "data",
    "models": "model",
    "attacks": "attack",
    "training": "training",
    "runs": "run",
    "kernels": "kernel",
    "stage2": "stage2",
    "collapse": "collapse",
    "features": "features",
}
"""Of each section with entries of its own, what describes one of them."""


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """A node of the schema with what it refers to."""
    if "$ref" not in node:
        return node
    found: Any = SCHEMA
    for name in node["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return {**resolved(found), **{key: value for key, value in node.items() if key != "$ref"}}


def kind(node: dict[str, Any]) -> str:
    """What a value may be, in words."""
    node = resolved(node)
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(kind(choice) for choice in node["anyOf"]))
    types = node.get("type", "anything")
    text = " or ".join(types) if isinstance(types, list) else types
    if node.get("type") == "array" and "items" in node:
        text += f" of {kind(node['items'])}"
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤"}
    return text + "".join(f" {sign} {node[key]:g}" for key, sign in limits.items() if node.get(key, 1e9) < 1e9)


def default(node: dict[str, Any], required: bool) -> str:
    """The default as YAML would have it."""
    if "default" not in node:
        return "required" if required else "–"
    return f"`{json.dumps(node['default'], ensure_ascii=False)}`"


def table(node: dict[str, Any]) -> list[str]:
    """Keys of a mapping, one row each; keys of mappings inside it with their path."""
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]

    def add(prefix: str, node: dict[str, Any], where: str = "") -> None:
        for key, entry in node.get("properties", {}).items():
            if entry is True:  # described where it decides on the others
                continue
            entry = resolved(entry)
            if entry.get("type") == "object" and "properties" in entry:
                add(f"{prefix}{key}.", entry)
                continue
            cells = [f"`{prefix}{key}`", kind(entry), default(entry, key in node.get("required", []))]
            lines.append(" | ".join(["", *cells, where + entry.get("description", ""), ""]).strip())
        for choice in node.get("allOf", []):
            [(key, condition)] = choice["if"]["properties"].items()
            names = condition.get("enum", [condition.get("const")])
            add(prefix, choice["then"], f"{key} {', '.join(names)}: ")

    add("", node)
    return lines


def document() -> str:
    """The whole page."""
    lines = [INTRODUCTION, "## Study", ""]
    top = SCHEMA["properties"]
    single = {key: node for key, node in top.items() if key not in SECTIONS and key not in ("figures", "style")}
    lines += [*table({"properties": single, "required": SCHEMA["required"]}), ""]
    for section, entry in SECTIONS.items():
        lines += [f"## {section}", "", top[section]["description"], "", *table(resolved(SCHEMA["$defs"][entry])), ""]
    lines += ["## figures", "", top["figures"]["description"], ""]
    kinds: dict[str, list[str]] = {}
    for name, node in top["figures"]["properties"].items():
        kinds.setdefault(node["$ref"], []).append(name)
    for reference, names in kinds.items():
        entry = resolved({"$ref": reference})
        rows = entry["properties"]["rows"]
        lines += [f"### {', '.join(names)}", "", entry["description"], "", f"`rows`: {rows['description']}", ""]
        lines += [*table(resolved(rows["items"])), ""]
    lines += ["## style", "", top["style"]["description"], "", *table(top["style"])]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "configuration.md").write_text(document())
