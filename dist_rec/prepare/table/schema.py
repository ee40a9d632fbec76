"""The schema of a table: a TOML file that maps columns of CSV or Parquet to the label, numbers and ids.

    [source]                       # format of the files
    [label]                        # column, and the values that mean a click; without them it is a number
    [dense.NAME]                   # a number, transformed
    [categorical.NAME]             # an id: vocabulary (min_count), hashing (buckets) or bucketised number (boundaries)
    [bag.NAME], [sequence.NAME]    # several ids: a list, or text that is split at a separator
    [cross.NAME]                   # the combination of several categorical features as one id
    [valid]                        # share of the training rows for validation, if no validation files are given

A feature reads the column of its own name unless `column` names another.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from dist_rec.core.config import Config, read_toml
from dist_rec.core.errors import UserError
from dist_rec.core.schema import Column, Kind

MAX_BUCKETS = 2**31 - 2
LABEL = "label"
"""Name of the label's column in the shards."""

Name = Annotated[str, StringConstraints(pattern=r"^[\w-]+$")]
"""Name of a feature or a table: letters, digits, underscores and dashes, since it becomes the name of a file."""


class Source(Config):
    """Format of the files."""

    format: Literal["csv", "parquet"] = "csv"
    """CSV is plain or gzipped; spaces around a value are not part of it, and no value holds a line break."""
    separator: str = ","
    """One character, which may have spaces around it; a quoted value must begin right after it."""
    header: bool = True
    """Whether the first line of a CSV file names its columns."""
    names: tuple[str, ...] = ()
    """Names of all columns of a CSV file without a header."""
    skip_lines: int = Field(0, ge=0)
    """Lines to leave out at the beginning of every CSV file."""
    comment: str = ""
    """Lines of a CSV file that begin with this are left out."""
    missing: tuple[str, ...] = ("",)
    """Values that stand for a missing value."""

    @property
    def delimiter(self) -> str:
        """The separator's one character."""
        return self.separator.strip(" ") or " "

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.delimiter) != 1:
            raise ValueError(f"separator {self.separator!r} must be one character, with or without spaces around it")
        if self.format == "csv" and self.header == bool(self.names):
            raise ValueError("either a header names the columns or names does; with header = false give names")
        if len(set(self.names)) < len(self.names):
            raise ValueError("two columns have the same name; give each its own")
        return self


class Label(Config):
    """The target of training; every row must have one."""

    column: str
    positive: tuple[str, ...] = ()
    """Values that mean a click, label 1; all others are 0. Without them the column holds numbers, such as ratings."""


class Dense(Config):
    """A number."""

    column: str = ""
    transform: Literal["quantile", "log1p", "standardise", "identity"] = "standardise"
    """quantile: (i - 1) / (quantiles - 1) in the i-th quantile of the training rows (Cheng et al. 2016, section 4.2);
    log1p: log(1 + max(x, 0)); standardise: mean 0 and deviation 1 over the training rows; identity: unchanged."""
    quantiles: int = Field(100, ge=2)
    """Number of quantiles."""
    missing: float = 0.0
    """Replaces missing values, after the transform."""


class Ids(Config):
    """Mapping of values to rows of a table; row 0 is for missing and unknown values."""

    min_count: int | None = Field(None, ge=1)
    """Vocabulary: values that occur less often in the training rows are unknown. The default is 1."""
    buckets: int | None = Field(None, ge=1, le=MAX_BUCKETS)
    """If set, values are hashed to rows 1 to this many instead."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_count and self.buckets:
            raise ValueError("min_count is for a vocabulary and buckets for hashing; choose one")
        return self


class IdColumn(Ids):
    """Ids of a column."""

    column: str = ""
    table: Name | Literal[""] = ""
    """Features that name the same table share its ids; by default a feature has a table of its own name."""


class Categorical(IdColumn):
    """One id a row."""

    boundaries: tuple[float, ...] = ()
    """If set, a number is bucketised instead: rows 1 to n + 1 for n + 1 intervals, each with its lower boundary."""

    @model_validator(mode="after")
    def _check_boundaries(self) -> Self:
        if self.boundaries and (self.min_count or self.buckets or self.table):
            raise ValueError("boundaries define a table by themselves; leave out min_count, buckets and table")
        if any(low >= high for low, high in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise ValueError("boundaries must ascend")
        return self


class Jagged(IdColumn):
    """Any number of ids a row, without missing and empty ones."""

    separator: str = ""
    """Separator of ids in text; empty for lists of Parquet."""


class Cross(Ids):
    """The combination of categorical features' values, by its own vocabulary or hashing; missing if any value is."""

    of: tuple[str, ...] = Field(min_length=2)


class Valid(Config):
    """Rows of the training files that are used for validation, chosen at random by their place."""

    share: float = Field(gt=0, lt=1)
    seed: int = Field(0, ge=0)


class TableSchema(Config):
    """The whole schema."""

    source: Source = Source()
    label: Label
    dense: dict[Name, Dense] = {}
    categorical: dict[Name, Categorical] = {}
    bag: dict[Name, Jagged] = {}
    sequence: dict[Name, Jagged] = {}
    cross: dict[Name, Cross] = {}
    valid: Valid | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """The schema in a TOML file; raises UserError naming the file and the invalid key."""
        values = read_toml(path)
        try:
            return cls.parse(values)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    @property
    def ids(self) -> Iterator[tuple[str, Kind, IdColumn | Cross]]:
        """Name, kind and settings of all id features."""
        for name, categorical in self.categorical.items():
            yield name, "categorical", categorical
        for name, cross in self.cross.items():
            yield name, "categorical", cross
        for name, bag in self.bag.items():
            yield name, "bag", bag
        for name, sequence in self.sequence.items():
            yield name, "sequence", sequence

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of the shards."""
        return (
            Column(name=LABEL, kind="label"),
            *(Column(name=name, kind="dense") for name in self.dense),
            *(Column(name=name, kind=kind, table=table_of(name, feature)) for name, kind, feature in self.ids),
        )

    @property
    def source_columns(self) -> dict[str, str]:
        """Columns to read from files, and the first section that reads each."""
        read = {self.label.column: "label"}
        for section in ("dense", "categorical", "bag", "sequence"):
            for name, feature in getattr(self, section).items():
                read.setdefault(feature.column or name, f"{section}.{name}")
        return read

    @model_validator(mode="after")
    def _check(self) -> Self:
        first = {LABEL: "the label"}
        for section in ("dense", "categorical", "bag", "sequence", "cross"):
            for name in getattr(self, section):
                if name in first:
                    raise ValueError(
                        f"{section}.{name} has the name of {first[name]}; rename one and set its column = {name!r}"
                    )
                first[name] = f"{section}.{name}"
        if len(first) == 1:
            raise ValueError("there are no features; add sections such as [dense.NAME] or [categorical.NAME]")
        for name, cross in self.cross.items():
            for part in cross.of:
                if part not in self.categorical:
                    known = ", ".join(self.categorical) or "none"
                    raise ValueError(f"cross.{name}: {part!r} is not a categorical feature; known: {known}")
        self._check_tables()
        return self

    def _check_tables(self) -> None:
        first: dict[str, tuple[str, tuple]] = {}
        for name, _, feature in self.ids:
            boundaries = feature.boundaries if isinstance(feature, Categorical) else ()
            settings = (feature.min_count, feature.buckets, boundaries)
            owner, expected = first.setdefault(table_of(name, feature), (name, settings))
            if settings != expected:
                raise ValueError(f"{owner} and {name} share a table; give both the same min_count or buckets")


def table_of(name: str, feature: IdColumn | Cross) -> str:
    """The table of a feature."""
    return (feature.table if isinstance(feature, IdColumn) else "") or name
