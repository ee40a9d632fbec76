"""The name of an embedding table, wherever one is written or read."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self, TypeVar

T = TypeVar("T")
# TorchRec's collections of bags and of sequences hold each table as a module of its name.
PARAMETER = re.compile(r"(?:^|\.)(?:embedding_bags|embeddings)\.([^./]+/[^.]+)\.weight$")


@dataclass(frozen=True)
class TableName:
    """One weight matrix: that of a head's lookup or catalog for the data's table of ids that its features index."""

    lookup: str
    table: str

    def __str__(self) -> str:
        return f"{self.lookup}/{self.table}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The name that is written so, `lookup/table`."""
        lookup, _, table = text.partition("/")
        return cls(lookup, table)

    @classmethod
    def of_parameter(cls, parameter: str) -> Self | None:
        """The lookup's table that a parameter is, by its name in a model or a checkpoint; None if it is none."""
        found = PARAMETER.search(parameter)
        return None if found is None else cls.parse(found[1])


def by_table(parameters: Iterable[tuple[str, T]]) -> dict[TableName, T]:
    """The lookups' tables among a model's parameters, or among what else goes by their names."""
    return {table: value for name, value in parameters if (table := TableName.of_parameter(name)) is not None}
