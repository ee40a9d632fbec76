"""Flags of a command from the fields of configs, so that name, type, default and meaning are written once."""

from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, Literal

import typer

from dist_rec.core.config import Config

Kinds = Mapping[str, type[Config]]
Command = Callable[..., None]


def with_flags(command: Command, config: type[Config], **chosen: Kinds) -> Command:
    """A command that takes `**settings`, with a flag for every field of a config and of the kinds of its parameters.

    Args:
        command: its own parameters become the first flags.
        config: its flags have its defaults.
        chosen: for a parameter that names a kind, all kinds by name; their flags are None if not given.
    """

    @wraps(command)
    def with_settings(**values: Any) -> None:
        command(**values)

    own = [of for of in signature(command).parameters.values() if of.kind is not Parameter.VAR_KEYWORD]
    for place, of in enumerate(own):
        if of.name in chosen:
            names: Any = Literal[tuple(chosen[of.name])]
            own[place] = of.replace(annotation=Annotated[names, *of.annotation.__metadata__])
    flags = [*_flags(config), *(flag for kinds in chosen.values() for flag in _flags_of_kinds(kinds))]
    with_settings.__dict__["__signature__"] = Signature([*own, *flags])
    return with_settings


def _flags(config: type[Config]) -> Iterator[Parameter]:
    for key, field in config.model_fields.items():
        switch = [f"--{key.replace('_', '-')}"] if field.default is False else []
        low = next((of.ge for of in field.metadata if hasattr(of, "ge") and field.annotation is int), None)
        option = typer.Option(*switch, help=" ".join((field.description or "").split()), min=low)
        annotation = Annotated[field.annotation, option]  # type: ignore[name-defined]
        yield Parameter(key, Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)


def _flags_of_kinds(kinds: Kinds) -> Iterator[Parameter]:
    """The flags of all kinds, each once; the help names the kinds that have it, and its defaults."""
    flags = {flag.name: flag for kind in kinds.values() for flag in _flags(kind) if flag.name != "name"}
    for key, flag in flags.items():
        kind, option = flag.annotation.__origin__, flag.annotation.__metadata__[0]
        values = {name: of.model_fields[key].default for name, of in kinds.items() if key in of.model_fields}
        stated = {name: value for name, value in values.items() if type(value) in (int, float, str)}
        same = len({*stated.values()}) == 1
        shown = dict.fromkeys(f"{value}" if same else f"{value} ({name})" for name, value in stated.items())
        ending = f"; {' or '.join(shown)} if not given." if shown else "."
        option.help = f"{', '.join(values)}: {option.help[:1].lower()}{option.help[1:].rstrip('.')}{ending}"
        yield flag.replace(default=None, annotation=Annotated[kind | None, option])
