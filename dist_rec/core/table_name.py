"""The names of embedding tables in configs, models and checkpoints."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self, TypeVar

T = TypeVar("T")
# TorchRec's EmbeddingBagCollection and EmbeddingCollection hold each table as a submodule of its name.
PARAMETER = re.compile(r"(?:^|\.)(?:embedding_bags|embeddings)\.([^./]+/[^.]+)\.weight$")


@dataclass(frozen=True)
class TableName:
    """Name of a weight matrix: the head's lookup or catalog, and the data's table of ids that its features index."""

    lookup: str
    table: str

    def __str__(self) -> str:
        return f"{self.lookup}/{self.table}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses `lookup/table`."""
        lookup, _, table = text.partition("/")
        return cls(lookup, table)

    @classmethod
    def of_parameter(cls, parameter: str) -> Self | None:
        """The table that a parameter's name in a model or checkpoint refers to; None if it is not a lookup's table."""
        found = PARAMETER.search(parameter)
        return None if found is None else cls.parse(found[1])


def by_table(parameters: Iterable[tuple[str, T]]) -> dict[TableName, T]:
    """The values of the lookups' tables, from pairs of a parameter's name and a value."""
    return {table: value for name, value in parameters if (table := TableName.of_parameter(name)) is not None}
