"""The fields of the questions of the JSON interface: one table, by which bodies are checked and described."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lit_jax.inference.prompts import TEMPLATES
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.suggestions import suggestion

LABELS, LONGEST = 1000, 1000  # The most labels of one request; the most characters of a label or of a query.
IMAGES, TEXTS, TOP = 64, 1024, 100  # The most of one request.


@dataclass(frozen=True)
class Field:
    """A field of a body; `check` uses the type, the items and the limits of its JSON `schema`."""

    about: str
    schema: Mapping[str, Any]


_TEXT = {"type": "string", "maxLength": LONGEST}
_FILE = {"type": "string", "contentEncoding": "base64"}

# Path -> what it does, and its fields; a field after "|" may be missing if one of the others is there.
QUESTIONS: dict[str, tuple[str, dict[str, Field]]] = {
    "/api/embed": (
        "Unit vectors of texts and of pictures.",
        {
            "texts": Field("Texts.", {"type": "array", "items": _TEXT, "maxItems": TEXTS}),
            "images": Field(
                "Files of pictures in base64.", {"type": "array", "items": _FILE, "maxItems": IMAGES}
            ),
        },
    ),
    "/api/classify": (
        "The probability of each label for each picture.",
        {
            "images": Field(
                "Files of pictures in base64.", {"type": "array", "items": _FILE, "maxItems": IMAGES}
            ),
            "labels": Field("Two or more labels.", {"type": "array", "items": _TEXT, "maxItems": LABELS}),
            "prompts": Field(
                "The set of prompts that labels are put into.",
                {"type": "string", "enum": [*TEMPLATES], "default": "name"},
            ),
        },
    ),
    "/api/search": (
        "The pictures of the index that are nearest to a text or to a picture.",
        {
            "text": Field("A text.", _TEXT),
            "image": Field("The file of a picture in base64, instead of a text.", _FILE),
            "top": Field(
                "How many pictures.", {"type": "integer", "minimum": 1, "maximum": TOP, "default": 10}
            ),
        },
    ),
}
_TYPES = {"string": str, "array": list, "integer": int}
_SAID = {"string": "a text", "array": "a list", "integer": "a whole number"}


def check(path: str, body: Any) -> dict[str, Any]:
    """The fields of a body, with defaults; a missing one is None. Raises ConfigError for a field not in the table."""
    fields = QUESTIONS[path][1]
    if not isinstance(body, dict):
        raise ConfigError(f"the body is {_said(body)}; want an object with {', '.join(fields)}")
    for name in body:
        if name not in fields:
            raise ConfigError(
                f"the body has a field {name!r:.60}, which {path} does not know; want "
                f"{suggestion(name, fields) or ', '.join(fields)}"
            )
    return {
        name: _checked(name, body[name], field.schema) if name in body else field.schema.get("default")
        for name, field in fields.items()
    }


def _checked(name: str, value: Any, schema: Mapping[str, Any]) -> Any:
    kind = schema["type"]
    if not isinstance(value, _TYPES[kind]) or isinstance(value, bool):
        raise ConfigError(f"{name} is {_said(value)}; want {_SAID[kind]}")
    return _within(name, value, schema)


def _within(name: str, value: Any, schema: Mapping[str, Any]) -> Any:
    """`value`, which has the type of the schema. Raises ConfigError if it is outside the schema's limits."""
    kind = schema["type"]
    if "enum" in schema and value not in schema["enum"]:
        raise ConfigError(f"{name} is {value!r:.60}; want one of {', '.join(schema['enum'])}")
    if kind == "integer" and not schema["minimum"] <= value <= schema["maximum"]:
        raise ConfigError(f"{name} is {value:.6g}; want {schema['minimum']} to {schema['maximum']}")
    if (most := schema.get("maxLength")) and len(value) > most:
        raise ConfigError(f"{name} has {len(value):,} characters; give at most {most:,}")
    if kind == "array":
        if len(value) > schema["maxItems"]:
            raise ConfigError(f"{name} has {len(value):,} items; give at most {schema['maxItems']:,}")
        for number, item in enumerate(value):
            _checked(f"{name}[{number}]", item, schema["items"])
    return value


def _said(value: Any) -> str:
    """A JSON value in words."""
    names = {"bool": "a boolean", "NoneType": "null", "dict": "an object", "float": "a number"}
    kinds = {kind.__name__: said for (name, kind), said in zip(_TYPES.items(), _SAID.values(), strict=True)}
    return (names | kinds).get(type(value).__name__, type(value).__name__)


def openapi(name: str, version: str) -> dict[str, Any]:
    """The OpenAPI description of the interface of the model `name`."""
    paths: dict[str, Any] = {
        path: {"post": _operation(path, about, fields)} for path, (about, fields) in QUESTIONS.items()
    }
    model = {"summary": "The model, its dimensions and its index.", "operationId": "model"}
    paths["/api/model"] = {"get": model | {"responses": {"200": {"description": "An object."}}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": name, "version": version},
        "paths": paths,
    }


def _operation(path: str, about: str, fields: Mapping[str, Field]) -> dict[str, Any]:
    properties = {name: {"description": field.about} | dict(field.schema) for name, field in fields.items()}
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    answers = {
        "200": "The answer, an object.",
        "400": "A mistake, as one sentence in `error`.",
        "413": "The body is too large.",
        "503": "Too many questions are waiting, or the memory is full; try again after the seconds in Retry-After.",
    }
    return {
        "summary": about,
        "operationId": path.rpartition("/")[2],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {status: {"description": text} for status, text in answers.items()},
    }
