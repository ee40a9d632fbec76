"""GRU4Rec: Hidasi et al. 2016, "Session-based Recommendations with Recurrent Neural Networks", with the sampling of
Hidasi and Karatzoglou 2018, "Recurrent Neural Networks with Top-k Gains for Session-based Recommendations".

The items of a session go one by one through layers of gated recurrent units, and the hidden units of the last layer are
scored against all items. Sessions lie side by side in lanes (session-parallel mini-batches, section 3.1.1); gradients
go through the last step alone, as in the authors' code. The loss, and what it samples, are the task's (`next_item`).

Shapes: B rows, D item dimension, H hidden units, S numbers of state.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.schema import Manifest
from dist_rec.nn.dropout import Dropout
from dist_rec.nn.recurrent import GRUCell


class GRU4Rec(head.RecurrentHead):
    """Gated recurrent units over the items of a session."""

    class Config(config.Config):
        """Sizes of the model."""

        history: str = "history"
        """Sequence of a session's items."""
        target: str = "target"
        """Sequence of what follows each of them."""
        hidden: int = Field(100, gt=0)
        """Units of a layer, H."""
        layers: int = Field(1, gt=0)
        """Layers of units."""
        embedding: Literal["shared", "separate", "none"] = "shared"
        """Vectors that items come in by: those that they are scored by, others of `dim` columns, or one for the gates
        of the first layer, which takes items as they are (one-hot)."""
        dim: int | None = Field(None, gt=0)
        """Dimension of separate vectors, D; as many as hidden units if not set."""
        input: Literal["last", "discounted"] = "last"
        """What comes in: the last item, or the sum of all items of the session so far (section 3.1)."""
        discount: float = Field(0.5, gt=0, lt=1)
        """By what an item of a discounted sum counts less with each that follows."""
        embedding_dropout: float = Field(0.0, ge=0, lt=1)
        """Of what comes in."""
        hidden_dropout: float = Field(0.0, ge=0, lt=1)
        """Of the hidden units that go out of a layer."""

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """The vectors that items come in by."""
        return (head.Lookup("items", (config.history,), _inputs(config), pooling="none"),)

    @classmethod
    def catalog(cls, config: Config, manifest: Manifest) -> head.Catalog:
        """The vectors and biases that items are scored by."""
        tied = "items" if config.embedding == "shared" else None
        return head.Catalog("output", config.target, config.hidden, tied=tied)

    @classmethod
    def state_size(cls, config: Config) -> int:
        """Hidden units of all layers, and the discounted sum."""
        return sum(_state_sizes(config))

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.config = config
        inputs = [0 if config.embedding == "none" else _inputs(config), *[config.hidden] * (config.layers - 1)]
        self.cells = nn.ModuleList(GRUCell(size, config.hidden) for size in inputs)
        self.embedding_dropout, self.hidden_dropout = Dropout(config.embedding_dropout), Dropout(config.hidden_dropout)

    def forward(self, inputs: head.Inputs) -> head.Query:
        """The units of the last layer, [B, H], and the state, [B, S]."""
        assert inputs.state is not None
        *hidden, discounted = inputs.state.split(_state_sizes(self.config), dim=1)
        x_BD, state = inputs.sequences["items"][self.config.history].values, []
        if self.config.input == "discounted":
            x_BD, discounted = _discounted(x_BD, discounted, self.config.discount)
        x_BD = self.embedding_dropout(x_BD)
        for cell, h_BH in zip(self.cells, hidden, strict=True):
            h_BH = cell(x_BD, h_BH)
            state.append(h_BH)
            x_BD = self.hidden_dropout(h_BH)
        return head.Query(x_BD, state=torch.cat([*state, discounted], dim=1))


def _state_sizes(config: GRU4Rec.Config) -> list[int]:
    """Numbers of the state that each layer's units take, and a discounted sum with the square of its length."""
    return [config.hidden] * config.layers + [(_inputs(config) + 1) * (config.input == "discounted")]


def _discounted(x_BD: Tensor, sum_BE: Tensor, discount: float) -> tuple[Tensor, Tensor]:
    """The sum of a session's items, over the length that it has where items are different one-hot vectors."""
    before_BD, square_B1 = sum_BE.split((x_BD.shape[1], 1), dim=1)
    now_BD, square_B1 = discount * before_BD + x_BD, discount**2 * square_B1 + 1
    return now_BD / square_B1.sqrt(), torch.cat([now_BD, square_B1], dim=1)


def _inputs(config: GRU4Rec.Config) -> int:
    """Columns of what items come in by."""
    match config.embedding:
        case "shared":
            return config.hidden
        case "separate":
            return config.dim or config.hidden
        case "none":
            return 3 * config.hidden
