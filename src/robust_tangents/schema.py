"""Settings against their JSON schema: defaults filled in, mistakes told in one line."""

import copy
import difflib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema

from robust_tangents.errors import InputError

SCHEMAS = Path(__file__).parents[2] / "workflow" / "schemas"

Spec = dict[str, Any]

# Known keys that an error lists; of more, those that are most like the unknown one.
_LISTED = 15


def _schema(name: str) -> Spec:
    return json.loads((SCHEMAS / f"{name}.schema.json").read_text())


def _with_defaults(schema: Spec) -> jsonschema.Draft202012Validator:
    """A validator that also fills in the defaults of the schema."""
    validate_properties = jsonschema.Draft202012Validator.VALIDATORS["properties"]

    def fill(validator, properties, instance, schema):
        if validator.is_type(instance, "object"):
            for name, subschema in properties.items():
                if isinstance(subschema, dict) and "default" in subschema:
                    instance.setdefault(name, copy.deepcopy(subschema["default"]))
        yield from validate_properties(validator, properties, instance, schema)

    return jsonschema.validators.extend(jsonschema.Draft202012Validator, {"properties": fill})(schema)


def _as_yaml(number: float) -> str:
    """A number as YAML reads it: with a decimal point before an exponent."""
    if number.is_integer():
        return str(int(number))
    text = repr(number)
    return text if "." in text else text.replace("e", ".0e")


def _description(error: Any, schema: Spec) -> str:
    """What the schema says of the key of an error; of several descriptions the one nearest to the key's name."""
    node: Any = schema
    text, before = schema["description"], None
    for part in error.absolute_schema_path:
        if before in ("properties", "patternProperties"):
            text = ""
        elif isinstance(node, dict):
            text = text or node.get("description", "")
            while part not in node:  # the path is silent about references
                for name in node["$ref"].removeprefix("#/").split("/"):
                    node = schema[name] if name == "$defs" else node[name]
                text = text or node.get("description", "")
        node, before = node[part], None if before in ("properties", "patternProperties") else part
    return text if text[1:2].isupper() or text[1:2].isdigit() else text[:1].lower() + text[1:]


def figure_kind(name: str) -> tuple[str, str]:
    """What a figure is drawn like (itself, or the figure whose settings it takes), and what it shows."""
    schema = _schema("config")
    figure = schema["properties"]["figures"]["properties"][name]
    kind = figure["$ref"].removeprefix("#/$defs/")
    return kind, figure.get("description", schema["$defs"][kind]["description"])


def _explain(error: Any, schema: Spec, subject: str) -> str:
    """One line: the key path, what is wrong, what would be right."""
    while error.context:
        # Of several alternatives, report the one that fits best.
        error = jsonschema.exceptions.best_match(error.context)
    path = ".".join(str(part) for part in error.absolute_path) or "the top level"
    message = error.message
    if error.validator == "type" and isinstance(error.instance, str):
        with suppress(ValueError):
            message += f" (YAML reads {error.instance!r} as text; write {_as_yaml(float(error.instance))})"
    elif error.validator == "additionalProperties" and isinstance(error.schema, dict):
        known = sorted(error.schema.get("properties", {})) or ["lower-case letters, digits and _"]
        if len(known) > _LISTED:
            unknown = min(set(error.instance) - set(known))
            known = [*difflib.get_close_matches(unknown, known, _LISTED, 0), "…"]
        message += f" (known: {', '.join(known)})"
    hint = _description(error, schema)
    return f"{subject}: {path}: {message}" + (f"; {hint}" if hint else "")


def _check_json(node: Any, subject: str, path: str = "the top level") -> None:
    """YAML has keys and numbers that JSON, and so the schema, does not know."""
    if isinstance(node, float) and not math.isfinite(node):
        raise InputError(f"{subject}: {path}: {node} is not a number to compute with; write a finite one")
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if isinstance(node, Mapping) and not isinstance(key, str):
            raise InputError(f"{subject}: {path}: the key {key!r} is not text; put it in quotation marks")
        _check_json(value, subject, str(key) if path == "the top level" else f"{path}.{key}")


def validate(settings: Mapping[str, Any], schema_name: str = "config", subject: str = "configuration") -> Spec:
    """The settings with all defaults filled in.

    Args:
        settings: anything that was read from YAML.
        schema_name: they should follow ``workflow/schemas/<schema_name>.schema.json``.
        subject: what an error begins with.

    Raises:
        InputError: they do not follow the schema.
    """
    _check_json(settings, subject)
    result = copy.deepcopy(dict(settings) if isinstance(settings, Mapping) else settings)
    schema = _schema(schema_name)
    validator = _with_defaults(schema)
    errors = sorted(validator.iter_errors(result), key=lambda error: len(error.absolute_path), reverse=True)
    if errors:
        raise InputError(_explain(jsonschema.exceptions.best_match(errors), schema, subject))
    return result
