"""Flags of a command out of the fields of configs."""

import re
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from dist_rec.cli.flags import with_flags
from dist_rec.cli.main import app
from dist_rec.core.config import Config
from dist_rec.prepare.ratings.source import Options
from dist_rec.prepare.ratings.split import SPLITTERS


class Common(Config):
    min_size: int = Field(3, ge=1)
    """Smaller ones
    are left out."""
    loud: bool = False
    """Says more."""
    form: Literal["long", "short"] = "long"


class Even(Config):
    name: Literal["even"] = "even"
    share: float = Field(0.5, gt=0)
    """Of the rows."""
    seed: int = Field(0, ge=0)


class Odd(Config):
    name: Literal["odd"] = "odd"
    rows: int = Field(gt=0)
    """Rows that are taken."""
    share: float = 0.25
    """Of the rows."""
    seed: int = Field(0, ge=0)
    """Of all draws."""
    shuffle: bool = True
    path: str | None = None


@pytest.fixture
def called() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def made(called: list[dict[str, Any]]) -> typer.Typer:
    def take(how: Annotated[str, typer.Option(help="What is taken.")], **settings: Any) -> None:
        called.append({"how": how, **settings})

    one = typer.Typer()
    one.command()(with_flags(take, Common, how={"even": Even, "odd": Odd}))
    return one


def test_settings_are_the_fields(made: typer.Typer, called: list[dict[str, Any]]) -> None:
    assert CliRunner().invoke(made, ["--how", "odd"]).exit_code == 0
    words = ["--how", "even", "--min-size", "1", "--loud", "--form", "short", "--share", "0.1", "--no-shuffle"]
    assert CliRunner().invoke(made, words).exit_code == 0
    nothing = dict.fromkeys(("share", "seed", "rows", "shuffle", "path"))
    assert called == [
        {"how": "odd", "min_size": 3, "loud": False, "form": "long", **nothing},
        {"how": "even", "min_size": 1, "loud": True, "form": "short", **nothing, "share": 0.1, "shuffle": False},
    ]


@pytest.mark.parametrize(
    "words",
    [["--how", "both"], ["--min-size", "0"], ["--seed", "-1"], ["--form", "wide"], ["--no-loud"], ["--share", "all"]],
)
def test_what_no_field_can_be_is_refused(made: typer.Typer, called: list[dict[str, Any]], words: list[str]) -> None:
    ran = CliRunner().invoke(made, ["--how", "odd", *words])
    assert (ran.exit_code, called) == (2, [])
    assert words[0] in ran.output


def help_of(command: typer.Typer, *words: str) -> str:
    """Without the box."""
    ran = CliRunner().invoke(command, [*words, "--help"], env={"COLUMNS": "400", "TERM": "dumb"})
    return " ".join(re.sub("[│╭╮╰╯─]", " ", ran.output).split())


def test_the_help_says_whose_a_flag_is_and_its_default(made: typer.Typer) -> None:
    shown = help_of(made)
    assert "Smaller ones are left out. [default: 3]" in shown
    assert "odd: rows that are taken. " in shown
    assert "even, odd: of the rows; 0.5 (even) or 0.25 (odd) if not given." in shown
    assert "even, odd: of all draws; 0 if not given." in shown


def test_every_setting_of_ratings_is_a_flag_with_a_meaning() -> None:
    for _ in range(2):  # the command is made again whenever it is asked for
        shown = help_of(app, "prepare", "ratings")
    for config in (Options, *SPLITTERS.values()):
        for key, field in config.model_fields.items():
            assert field.description or key == "name", key
            assert f"--{key.replace('_', '-')} " in shown or key == "name"
    assert "ratings" in help_of(app, "prepare")
