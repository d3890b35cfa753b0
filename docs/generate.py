"""Reference pages as Markdown: commands from Typer, settings from pydantic, routes from OpenAPI."""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

Schema = Mapping[str, Any]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return the lines of a table; nothing where there are no rows."""
    lines = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    if not lines:
        return []
    names = list(head)
    return ["", *(f"| {' | '.join(row)} |" for row in [names, ["---"] * len(names), *lines]), ""]


def code(value: object) -> str:
    """Return inline code, or nothing."""
    return f"`{value}`" if str(value) else ""


# --- commands -------------------------------------------------------------------------------------


def commands(group: Any, prefix: str = "binet") -> Iterator[tuple[str, Any]]:
    """Yield every command with its full name: `binet data check`."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if isinstance(value, Path):
        root = Path(__file__).resolve().parents[1]
        value = value.relative_to(root) if value.is_relative_to(root) else value
    shown = getattr(value, "value", value)
    return "" if shown is None or shown is False or shown == () else code(shown)


def _values(parameter: Any) -> str:
    """Say what an option takes: its choices, or the name of a value; nothing for a switch."""
    if getattr(parameter, "is_flag", False):
        return ""
    annotation = parameter.type_descriptor.annotation
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(code(choice.value) for choice in annotation)
    if get_origin(annotation) is Literal:
        return ", ".join(map(code, get_args(annotation)))
    names = {"str": "TEXT", "int": "N", "float": "NUMBER", "Path": "PATH"}
    name = parameter.metavar or names.get(
        getattr(annotation, "__name__", ""), parameter.name.upper()
    )
    return code(name) + (", repeatable" if parameter.multiple else "")


def commands_page() -> str:
    """Return every command with its arguments and options."""
    import typer.main

    import binet

    lines = ["# Commands", "", "`--help` after any of them prints the same.", ""]
    for name, command in sorted(commands(typer.main.get_command(binet.app))):
        lines += [f"## {name}", "", inspect.cleandoc(command.help or ""), ""]
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option"]
        for kind, chosen in (("argument", arguments), ("option", options)):
            rows = [
                (
                    code(", ".join(p.opts)) if kind == "option" else _values(p),
                    _values(p) if kind == "option" else "",
                    _default(p),
                    p.help or "",
                )
                for p in chosen
            ]
            lines += table((kind, "takes", "default", ""), rows)
    return "\n".join(lines)


# --- settings -------------------------------------------------------------------------------------


def comments(model: type[BaseModel]) -> dict[str, str]:
    """Return the `#:` comment above each field; fields that follow without one share it."""
    lines = textwrap.dedent(inspect.getsource(model)).splitlines()
    tree = ast.parse("\n".join(lines))
    found: dict[str, str] = {}
    end, last = -1, ""
    for node in (node for top in tree.body for node in getattr(top, "body", ())):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        first = node.lineno - 1
        while lines[first - 1].strip().startswith("#:"):
            first -= 1
        text = " ".join(
            line.strip().removeprefix("#:").strip() for line in lines[first : node.lineno - 1]
        )
        last = text or (last if end == node.lineno - 1 else "")
        found[node.target.id] = last
        end = node.end_lineno or node.lineno
    return found


def kind(schema: Schema) -> str:
    """Say a JSON schema's type in words."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(kind(one) for one in schema[key]))
    if "allOf" in schema:
        return kind(schema["allOf"][0])
    if "enum" in schema:
        return ", ".join(code(value) for value in schema["enum"])
    if "const" in schema:
        return code(schema["const"])
    name = schema.get("format") or schema.get("type", "any")
    if schema.get("contentMediaType"):
        name = "file"
    if name == "array":
        items = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
        size = schema.get("maxItems") if schema.get("maxItems") == schema.get("minItems") else None
        return f"{size or 'list of'} {kind(items)}"
    limits = {
        "minimum": "≥",
        "exclusiveMinimum": ">",
        "maximum": "≤",
        "exclusiveMaximum": "<",
        "maxLength": "length ≤",
    }
    return " ".join(
        [name, *(f"{sign} {schema[key]}" for key, sign in limits.items() if key in schema)]
    )


def fields(model: type[BaseModel]) -> list[str]:
    """Return a table of a model's fields."""
    schema, told = model.model_json_schema(), comments(model)
    rows = []
    for name, field in schema["properties"].items():
        default = field.get("default", "")
        if isinstance(default, dict) and default:
            default = ""
        shown = json.dumps(default) if default != "" or field.get("type") == "string" else ""
        rows.append((code(name), kind(field), code(shown), told[name]))
    return table(("field", "type", "default", ""), rows)


def settings_page() -> str:
    """Return the fields of recipes, networks and the service, and environment variables."""
    from model import BINetConfig, PreprocessingConfig
    from service.settings import Settings
    from training.recipe import Augmentation, Recipe

    parts: list[tuple[str, str, type[BaseModel]]] = [
        (
            "Recipe",
            "Of `binet train`: `--set steps=1000`, or a line of a recipe's .toml file.",
            Recipe,
        ),
        ("Augmentation", "`--set augmentation.colour=0.2`.", Augmentation),
        (
            "BINetConfig",
            "The network: `--set network.rois_per_scene=64`, or `variant_config(name, ...)`.",
            BINetConfig,
        ),
        (
            "PreprocessingConfig",
            "`--set network.preprocessing.min_side=900`; it travels with the weights.",
            PreprocessingConfig,
        ),
        (
            "Service",
            "What `service.app.create_app` is told. `binet serve` has options for those that most "
            "need to be changed: [Commands](commands.md#binet-serve).",
            Settings,
        ),
    ]
    lines = ["# Settings", "", "An unknown field, or a value out of range, is an error.", ""]
    for title, told, model in parts:
        lines += [f"## {title}", "", told, *fields(model)]
    lines += ["## Environment", "", *environment()]
    return "\n".join(lines)


#: Variables that the program and its tests read.
ENVIRONMENT = {
    "BINET_CACHE": "Where features, the demo's clip and the like are kept; `~/.cache/binet` "
    "without it. The folder may be deleted at any time.",
    "BINET_KILLS": "Tests (`make nightly`): how often the indexer is killed; 20.",
    "BINET_DAMAGED": "Tests: damaged clips and pictures; 500.",
    "BINET_CORRUPTIONS": "Tests: corruptions of a gallery; 100.",
    "BINET_PICTURES": "Tests: mutated pictures sent to the service; 1000.",
    "BINET_HOSTILE": "Tests: hostile requests; 1000.",
    "BINET_EXAMPLES": "Tests: requests for each route, made from the schema; 12.",
    "BINET_SCREENSHOTS": "Tests: a folder for pictures of the web page.",
}


def environment() -> list[str]:
    """Return a table of environment variables."""
    return table(("variable", ""), ((code(name), told) for name, told in ENVIRONMENT.items()))


# --- HTTP -----------------------------------------------------------------------------------------


def http_page(openapi: Path) -> str:
    """Return routes, parameters and documents of the service."""
    document = json.loads(openapi.read_text(encoding="utf-8"))
    schemas = document["components"]["schemas"]
    lines = [
        "# HTTP interface",
        "",
        "The same as [openapi.json](../openapi.json), to read; [The service](../service.md) says "
        "what it is for. A key goes into the header `Authorization: Bearer KEY`. Errors (400, 401, "
        "403, 404, 409, 410, 413, 422, 429, 503) are a [Problem](#problem), whose `detail` says "
        "what to do.",
        "",
    ]
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            lines += _route(f"{method.upper()} {path}", route, schemas)
    lines += ["## Documents", ""]
    for name, schema in schemas.items():
        if not name.startswith("Body_"):
            lines += [f"### {name}", "", inspect.cleandoc(schema.get("description", "")), ""]
            lines += _properties(schema)
            if "enum" in schema:
                lines += [kind(schema), ""]
    return "\n".join(lines)


def _route(title: str, route: Schema, schemas: Schema) -> list[str]:
    lines = [f"## {title}", "", _plain(route.get("description", "")), ""]
    parameters = [
        (code(p["name"]), p["in"], _kind(p["schema"]), _plain(p.get("description", "")))
        for p in route.get("parameters", ())
    ]
    lines += table(("parameter", "in", "type", ""), parameters)
    for media, content in route.get("requestBody", {}).get("content", {}).items():
        name = content["schema"].get("$ref", "").rsplit("/", 1)[-1]
        if name.startswith("Body_"):
            lines += ["", f"A form (`{media}`):", *_properties(schemas[name])]
        else:
            lines += ["", f"Body: {kind(content['schema'])} (`{media}`).", ""]
    answers = []
    for status, answer in route["responses"].items():
        if status.startswith("2"):
            for media, content in answer.get("content", {"": {}}).items():
                schema = content.get("schema") or {}
                empty = {"": "nothing", "application/json": "an object"}.get(media, "bytes")
                shown = kind(schema) if schema else empty
                answers.append(f"{status}: {shown}" + (f" (`{media}`)" if media else ""))
    return [*lines, f"Answers {'; '.join(answers)}.", ""]


def _properties(schema: Schema) -> list[str]:
    needed = set(schema.get("required", ()))
    rows = []
    for name, field in schema.get("properties", {}).items():
        default = field.get("default")
        shown = (
            "required" if name in needed else "" if default is None else code(json.dumps(default))
        )
        rows.append((code(name), _kind(field), shown, _plain(field.get("description", ""))))
    return table(("field", "type", "default", ""), rows)


def _kind(schema: Schema) -> str:
    """Without the null of what may be left out."""
    return re.sub(" or null$", "", kind(schema))


def _plain(text: str) -> str:
    return inspect.cleandoc(text)
