"""Typed, frozen configuration: the base class of every `Config`, and TOML files with `key=value` overrides.

A component owns its `Config`, with the default, meaning and unit of every key; a TOML file names only the keys that
differ from their default. Every error in a file is reported in one line that names the key.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from dist_rec.core.errors import UserError


class Config(BaseModel):
    """Base of all configs: immutable and strictly typed; unknown keys are rejected."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def parse(cls, values: dict[str, Any], where: str = "") -> Self:
        """Validates nested dictionaries, lists and scalars, as TOML or JSON gives them.

        Raises:
            UserError: naming the first invalid key, prefixed by `where` (such as `head.`); for an unknown key also the
                known ones.
        """
        try:
            return cls.model_validate(_tuples(values))
        except ValidationError as error:
            raise UserError(_one_line(cls, error.errors()[0], where)) from None

    def to_toml(self) -> str:
        """All settings in effect, as a TOML file."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def read_toml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a TOML file and applies overrides of the form `section.key=value` in order.

    A value is parsed as TOML (`3`, `0.5`, `true`, `[512, 256]`, `"text"`); other text is taken as a string.

    Raises:
        UserError: if the file is missing or not TOML, or an override has no `=`.
    """
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"config {path} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"config {path} is a folder; name a .toml file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"config {path} is not valid TOML: {error}") from None
    for override in overrides:
        _apply(values, override)
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"override {override!r} does not have the form section.key=value")
    *sections, last = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"override {override!r}: {section!r} is a value, not a section")
    values[last] = _parse_value(text.strip())


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _tuples(value: Any) -> Any:
    """Turns the lists of TOML and JSON into the tuples of a frozen config."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_tuples(item) for item in value)
    return value


def _one_line(model: type[BaseModel], error: ErrorDetails, where: str) -> str:
    location, siblings = _locate(model, [str(part) for part in error["loc"]])
    key = where + ".".join(location)
    if error["type"] == "extra_forbidden":
        return f"unknown key {key!r}; known: {', '.join(sorted(siblings))}"
    if error["type"] == "missing":
        return f"missing key {key!r}"
    if error["type"] == "union_tag_not_found":
        return f"missing key '{key}.name'"
    if error["type"] == "union_tag_invalid":
        return f"{key}.name = {error['ctx']['tag']!r}: known: {error['ctx']['expected_tags']}"
    message = error["msg"].removeprefix("Value error, ")
    if not key:
        return message
    shown = repr(error["input"])
    return f"{key} = {shown[:60]}: {message[0].lower()}{message[1:]}"


def _locate(model: Any, parts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The path of keys to an error, without the union tags that pydantic inserts, and the keys beside the last one."""
    keys: list[str] = []
    siblings: list[str] = []
    for part in parts:
        siblings = []
        if isinstance(model, type) and issubclass(model, BaseModel):
            siblings = list(model.model_fields)
            field = model.model_fields.get(part)
            model = field.annotation if field else None
        elif get_origin(model) is dict:
            model = get_args(model)[1]
        elif tagged := [option for option in get_args(model) if _tag(option) == part]:
            (model,) = tagged
            continue
        else:
            model = None
        keys.append(part)
    return keys, siblings


def _tag(option: Any) -> str | None:
    name = getattr(option, "model_fields", {}).get("name")
    return name and name.default
