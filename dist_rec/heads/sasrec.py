"""SASRec: Kang and McAuley 2018, "Self-Attentive Sequential Recommendation".

The items of a user go through blocks of causal self-attention and a point-wise network of two layers; what a position
becomes is scored against all items, as a prediction of the next one. Around each layer g of a block are layer
normalisation, dropout and a residual: x + dropout(g(norm(x))) (section 3.3). A row of the data has as many targets as
positions to learn from, or fewer, which follow its last positions.

Departures: positions are counted from the start of the history; several heads are put together by a matrix, as in
Vaswani et al. 2017, and so is one; the loss is the task's (`next_item`), of which the paper's is `logistic` with
samples. With `temperature` scores are cosines, as in Zhai et al. 2024, "Actions Speak Louder than Words".

Shapes: B rows, V items of all histories end to end, Q targets of all rows, D dimension.
"""

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from dist_rec.core import config, head
from dist_rec.core.schema import Manifest
from dist_rec.nn.attention import PositionedItems, SelfAttention
from dist_rec.nn.dropout import Dropout, ReLUDropout
from dist_rec.nn.sequences import Sequences


class SASRec(head.CatalogHead):
    """Blocks of self-attention over the items of a history."""

    class Config(config.Config):
        """Sizes of the model, how items are scored."""

        history: str = "history"
        """Sequence of a user's items."""
        target: str = "target"
        """Sequence of what follows the last of them, in order."""
        dim: int = Field(50, gt=0)
        """Dimension of items and hidden units, D."""
        blocks: int = Field(2, gt=0)
        """Blocks of attention and point-wise network."""
        heads: int = Field(1, gt=0)
        """Heads of attention; `dim` is a multiple."""
        dropout: float = Field(0.2, ge=0, lt=1)
        """Of what comes in, and of what each layer gives."""
        longest: int = Field(200, gt=0)
        """Items of a history, at most."""
        embedding: Literal["shared", "separate"] = "shared"
        """Whether items are scored by the vectors that they come in by, or by others."""
        temperature: float | None = Field(None, gt=0)
        """What cosines are divided by to become scores; not set: scores are products, of any length."""

        @model_validator(mode="after")
        def _heads_are_alike(self) -> Self:
            if self.dim % self.heads:
                raise ValueError(f"dim = {self.dim} is no multiple of heads = {self.heads}")
            return self

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """The vectors that items come in by."""
        return (head.Lookup("items", (config.history,), config.dim, pooling="none"),)

    @classmethod
    def catalog(cls, config: Config, manifest: Manifest) -> head.Catalog:
        """The vectors that items are scored by."""
        tied = "items" if config.embedding == "shared" else None
        cosine = config.temperature is not None
        return head.Catalog("output", config.target, config.dim, bias=False, tied=tied, cosine=cosine)

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.config = config
        self.input = PositionedItems(config.longest, config.dim, config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, inputs: head.Inputs) -> head.Query:
        """A query for each target, [Q, D]."""
        history = inputs.sequences["items"][self.config.history]
        sequences = Sequences(history.lengths, self.config.longest)
        x_VD = self.input(history.values, sequences)
        for block in self.blocks:
            x_VD = block(x_VD, sequences)
        query_QD = self.norm(sequences.last(x_VD, inputs.num_targets))
        if self.config.temperature is not None:
            query_QD = functional.normalize(query_QD, dim=1) / self.config.temperature
        return head.Query(query_QD, per_target=True)


class Block(nn.Module):
    """Self-attention, then a network of two layers at each position (equations 2 to 5)."""

    def __init__(self, config: SASRec.Config) -> None:
        super().__init__()
        self.attention_norm, self.network_norm = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.attention = SelfAttention(config.dim, config.heads)
        self.first, self.second = nn.Linear(config.dim, config.dim), nn.Linear(config.dim, config.dim)
        self.dropout, self.hidden_dropout = Dropout(config.dropout), ReLUDropout(config.dropout)

    def forward(self, x_VD: Tensor, sequences: Sequences) -> Tensor:
        """[V, D] → [V, D]."""
        lengths_B = sequences.lengths_B
        x_VD = x_VD + self.dropout(self.attention(self.attention_norm(x_VD), sequences), lengths_B)
        hidden_VD = self.hidden_dropout(self.first(self.network_norm(x_VD)), lengths_B)
        return x_VD + self.dropout(self.second(hidden_VD), lengths_B)
