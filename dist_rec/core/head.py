"""The interface of a recommender: a head on the sharded embedding layer.

A head requests embeddings (`lookups`) and turns dense features and looked-up embeddings into scores. It
knows of no shard, file or process. Its name is its file: `name = "dlrm"` is `dist_rec/heads/dlrm.py`, and a dotted
name such as `my_package.my_head` is a module outside of the package.

Shapes: B rows, N dense features, F features of a lookup, D embedding dimension, V ids of a sequence feature.
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

from torch import Tensor, nn

from dist_rec.core import config
from dist_rec.core.errors import UserError
from dist_rec.core.schema import Manifest

BUILT_IN = "dist_rec.heads"
TableRows: TypeAlias = Callable[[str, Tensor], Tensor]
"""(`lookup/table`, row numbers) → those rows of the table from all its shards, [rows, dim]; a collective call."""


@dataclass(frozen=True)
class Lookup:
    """A request for embeddings: one row for each id of these features."""

    name: str
    features: tuple[str, ...]
    dim: int
    pooling: Literal["sum", "mean", "sqrtn", "none"] = "sum"
    """How the embeddings of a bag become one vector; "sqrtn" divides the sum by the L2 norm of the bag's weights,
    "none" keeps a sequence."""
    init: float | None = None
    """Initial weights are uniform in [-init, init]; None takes `embedding.init`."""
    dropout: float = 0.0
    """Probability that an id of a weighted bag is dropped in training; the weights of the others are multiplied by
    1 / (1 - dropout)."""


@dataclass(frozen=True)
class Catalog:
    """A request for an output table: a row of weights for each id of a feature, against which queries are scored."""

    name: str
    feature: str
    """An id column; the rows of its table are the items to choose from."""
    dim: int
    """Dimension of the queries."""
    bias: bool = True
    """Whether each row has a bias, initially 0."""
    init: float | None = None
    """See `Lookup.init`."""
    tied: str | None = None
    """Name of a lookup of the same table and dimension whose weights the catalog shares."""
    cosine: bool = False
    """Whether queries are scored against the directions of the rows, w / ‖w‖, instead of the rows."""


class Ids(NamedTuple):
    """Ids of B rows, end to end."""

    values: Tensor
    """int64 [V]."""
    lengths: Tensor
    """Number of ids of each row, int [B]."""
    weights: Tensor | None = None
    """float32 [V]; None if every weight is 1."""


class Sequence(NamedTuple):
    """Embeddings of a sequence feature, rows end to end."""

    values: Tensor
    """float32 [V, D]."""
    lengths: Tensor
    """int32 [B]."""


class Lanes(NamedTuple):
    """Events that lie side by side in a batch, one of each of B lanes.

    A lane reads one unit of data after the other, a session or a user, an event a step.
    """

    number: Tensor
    """int64 [B], among the lanes of this process."""
    starts_session: Tensor
    """bool [B], where the event is the first of its session."""
    starts_unit: Tensor
    """bool [B], where it is the first of its unit: the lane's state is zero there."""


@dataclass
class Inputs:
    """Inputs of a head's forward."""

    dense: Tensor
    """float32 [B, N]."""
    pooled: dict[str, Tensor] = field(default_factory=dict)
    """For each pooled lookup, float32 [B, F, D]."""
    sequences: dict[str, dict[str, Sequence]] = field(default_factory=dict)
    """For each lookup without pooling, the sequence of each feature."""
    step: int = 0
    """The global step in training, from 0."""
    num_targets: Tensor | None = None
    """For the head of a catalog: how many targets each row has, int [B]; None where they are not known."""
    lanes: Lanes | None = None
    """For a recurrent head, the lanes of the rows."""
    state: Tensor | None = None
    """And what the head left there in the step before, float32 [B, S]."""

    def double(self) -> "Inputs":
        """The same inputs in float64."""
        pooled = {name: value.double() for name, value in self.pooled.items()}
        sequences = {
            name: {key: Sequence(x.values.double(), x.lengths) for key, x in features.items()}
            for name, features in self.sequences.items()
        }
        state = None if self.state is None else self.state.double()
        return replace(self, dense=self.dense.double(), pooled=pooled, sequences=sequences, state=state)


class Head(nn.Module, ABC):
    """Base class of the recommenders.

    Args:
        config: the head's own settings.
        manifest: the data's columns and tables.
    """

    Config: ClassVar[type[config.Config]]

    @classmethod
    @abstractmethod
    def lookups(cls, config: Any, manifest: Manifest) -> tuple[Lookup, ...]:
        """The embeddings that the head requests; raises UserError if the data cannot give them."""

    @abstractmethod
    def __init__(self, config: Any, manifest: Manifest) -> None:
        super().__init__()
        self.manifest = manifest

    @abstractmethod
    def forward(self, inputs: Inputs) -> Any:
        """Scores of the rows, [B]: logits for the click task, ratings for the rating task."""

    def adopt(self, pretrained: list[dict[str, Tensor]], rows: TableRows) -> None:
        """Initializes parameters from pre-trained heads; by default those of the same name, from the last such head.

        Args:
            pretrained: the state dict of each pre-trained head.
            rows: reads rows of this head's tables, which have been initialized already.

        Raises:
            UserError: if a parameter has another shape.
        """
        own = self.state_dict()
        for state in pretrained:
            for name, value in state.items():
                if name in own and own[name].shape != value.shape:
                    shapes = f"{[*value.shape]}, but this head's has {[*own[name].shape]}"
                    raise UserError(f"the pre-trained {name} has shape {shapes}; give both heads the same sizes")
            own |= {name: value for name, value in state.items() if name in own}
        self.load_state_dict(own)


class Query(NamedTuple):
    """Output of a catalog's head: the queries, and optionally a penalty, predictions and a loss of its own."""

    vectors: Tensor
    """float32 [B, D], to be scored against every row of the catalog."""
    penalty: Tensor | None = None
    """float32 [B], added to the loss of each row of the batch."""
    predict: Callable[[Any, Ids], Tensor] | None = None
    """(scores, ids) → predictions for these ids in the unit of their weights, [V]; None predicts their scores."""
    loss: Callable[[Any, Ids], Tensor] | None = None
    """(scores, targets) → the loss of each query, [B]; None takes the loss of the task."""
    per_target: bool = False
    """Whether there is a query for each target, in their order, instead of one for each row."""
    state: Tensor | None = None
    """[B, S], what a recurrent head leaves in the lanes of its rows."""


class CatalogHead(Head):
    """A head that scores its queries against every row of a catalog, and learns from the rows named as targets."""

    @classmethod
    @abstractmethod
    def catalog(cls, config: Any, manifest: Manifest) -> Catalog:
        """The output table; its feature is the column of the targets."""

    @abstractmethod
    def forward(self, inputs: Inputs) -> Query:
        """The queries."""


class RecurrentHead(CatalogHead):
    """A head that reads sessions event by event: its rows are lanes (`Inputs.lanes`), each with a state of its own."""

    @classmethod
    @abstractmethod
    def state_size(cls, config: Any) -> int:
        """Numbers of a lane's state, S."""

    @classmethod
    def unit(cls, config: Any) -> str | None:
        """The categorical column, such as the user, whose consecutive equal rows share a state; None: no rows do."""
        return None


def head_names() -> list[str]:
    """Names of the heads that come with the package."""
    package = importlib.import_module(BUILT_IN)
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def find_head(name: str) -> type[Head]:
    """The head of that name.

    Raises:
        UserError: if there is no such module, or it does not define exactly one head.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"head.name = {name!r} is not a module name; known heads: {', '.join(head_names())}")
    path = name if "." in name else f"{BUILT_IN}.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"head.name = {name!r}: no module {path}; known heads: {', '.join(head_names())}") from None
    heads = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Head) and value.__module__ == module.__name__
    ]
    if len(heads) != 1:
        raise UserError(f"head.name = {name!r}: {path} defines {len(heads)} heads, but must define exactly one")
    return heads[0]
