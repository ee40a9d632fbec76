"""Flags of a command out of the fields of configs, so that name, type, default and meaning are written once."""

from collections.abc import Callable, Iterator
from inspect import Parameter, signature
from typing import Annotated, Any

import typer
from annotated_types import Ge

from dist_rec.core.config import Config

Command = Callable[..., None]


def with_flags(*configs: type[Config]) -> Callable[[Command], Command]:
    """A decorator for a command that takes `**settings`: one for every field of these configs.

    Configs with a field `name` are those of which the user names one. Their flags are None if not given, and the help
    says whose they are.
    """

    def decorate(command: Command) -> Command:
        own = signature(command)
        parameters = [of for of in own.parameters.values() if of.kind is not Parameter.VAR_KEYWORD]
        command.__dict__["__signature__"] = own.replace(parameters=[*parameters, *_flags(configs)])
        return command

    return decorate


def _flags(configs: tuple[type[Config], ...]) -> Iterator[Parameter]:
    keys = dict.fromkeys(key for config in configs for key in config.model_fields if key != "name")
    for key in keys:
        owners = [config for config in configs if key in config.model_fields]
        field = owners[0].model_fields[key]
        kind: Any = field.annotation
        default, meaning = field.default, " ".join((field.description or "").split())
        if "name" in owners[0].model_fields:
            kind, default, meaning = kind | None, None, _of_named(key, owners, meaning)
        switch = [f"--{key.replace('_', '-')}"] if field.default is False else []
        low: Any = next((of.ge for of in field.metadata if isinstance(of, Ge) and field.annotation is int), None)
        option = typer.Option(*switch, help=meaning, min=low)
        yield Parameter(key, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _of_named(key: str, owners: list[type[Config]], meaning: str) -> str:
    """The help of a flag that some of the named configs have: whose it is, and what it is if not given."""
    values = {owner.model_fields["name"].default: owner.model_fields[key].default for owner in owners}
    stated = {name: value for name, value in values.items() if type(value) in (int, float, str)}
    shown = {f"{value} ({name})" if len({*stated.values()}) > 1 else f"{value}": None for name, value in stated.items()}
    ending = f"; {' or '.join(shown)} if not given." if stated else "."
    return f"{', '.join(values)}: {meaning[0].lower()}{meaning[1:].rstrip('.')}{ending}"
