"""One of several kinds of settings, chosen by name and filled from the options of a command."""

from collections.abc import Mapping
from typing import Any, TypeVar

from dist_rec.core.config import Config
from dist_rec.core.errors import UserError

Kind = TypeVar("Kind", bound=Config)


def choose(option: str, name: str, kinds: Mapping[str, type[Kind]], settings: Mapping[str, Any]) -> Kind:
    """The kind of that name; settings that are None keep their default.

    Args:
        option: of the command, that takes the name, such as `--split`.
        name: given for it.
        kinds: by name.
        settings: of all kinds.

    Raises:
        UserError: naming the command's option, for a setting that the kind has not, or of a wrong value.
    """
    if name not in kinds:
        raise UserError(f"{option} {name!r} is not one of {', '.join(kinds)}")
    kind, given = kinds[name], {key: value for key, value in settings.items() if value is not None}
    for key in given:
        if key not in kind.model_fields:
            own = ", ".join(_option(field) for field in kind.model_fields if field != "name")
            which = f"whose options are {own}" if own else "which has no options"
            raise UserError(f"{_option(key)} is not for {option} {name}, {which}")
    for key, field in kind.model_fields.items():
        if field.is_required() and key not in given:
            raise UserError(f"{option} {name} needs {_option(key)}")
    return kind.parse(given, f"{option} {name}: ")


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")
