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

from typing import Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from dist_rec.core.schema import Manifest
from dist_rec.nn.attention import SelfAttention
from dist_rec.nn.dropout import Dropout, ReLUDropout
from dist_rec.nn.histories import HistoryConfig, HistoryHead
from dist_rec.nn.sequences import Sequences


class SASRec(HistoryHead):
    """Blocks of self-attention over the items of a history."""

    class Config(HistoryConfig):
        """Sizes of the model, how items are scored."""

        blocks: int = Field(2, gt=0)
        """Blocks of attention and point-wise network."""
        heads: int = Field(1, gt=0)
        """Heads of attention; `dim` is a multiple."""

        @model_validator(mode="after")
        def _heads_are_alike(self) -> Self:
            if self.dim % self.heads:
                raise ValueError(f"dim = {self.dim} is no multiple of heads = {self.heads}")
            return self

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.dim)

    def encode(self, x_VD: Tensor, sequences: Sequences) -> Tensor:
        """See `HistoryHead.encode`."""
        for block in self.blocks:
            x_VD = block(x_VD, sequences)
        return self.norm(x_VD)


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
