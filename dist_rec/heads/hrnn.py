"""HRNN: Quadrana et al. 2017, "Personalizing Session-based Recommendation with Hierarchical Recurrent Neural Networks".

A session-level GRU reads the items of a session, as in GRU4Rec; a user-level GRU reads what that one came to at the end
of each session (equation 5) and gives the next session of the user its first hidden state (equation 7: "init"), or
comes in beside every item as well (equation 8: "all"). A user's sessions follow each other in a lane (user-parallel
mini-batches, section 3.2). As in the authors' code, a user's first session starts from zeros, and gradients go through
the last step alone: the user-level GRU learns at the first event of each further session.

Shapes: B rows, D item dimension, H hidden units of a session, U of a user.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.schema import Manifest
from dist_rec.nn.dropout import Dropout
from dist_rec.nn.recurrent import GRUCell


class HRNN(head.RecurrentHead):
    """A GRU over the items of a session, and one over the sessions of a user."""

    class Config(config.Config):
        """Sizes of the model."""

        history: str = "history"
        """Sequence of a session's items."""
        target: str = "target"
        """Sequence of what follows each of them."""
        user: str = "user"
        """Categorical column of whose session it is."""
        variant: Literal["init", "all"] = "init"
        """Whether the user's state comes in at the beginning of a session, or with every item."""
        hidden: int = Field(100, gt=0)
        """Units of the session-level GRU, H; an item's vector has as many columns."""
        user_hidden: int = Field(100, gt=0)
        """Units of the user-level GRU, U."""
        embedding: Literal["shared", "separate"] = "shared"
        """Vectors that items come in by: those that they are scored by, or others."""
        embedding_dropout: float = Field(0.0, ge=0, lt=1)
        """Of what comes in."""
        hidden_dropout: float = Field(0.0, ge=0, lt=1)
        """Of the session-level units that are scored."""
        user_dropout: float = Field(0.0, ge=0, lt=1)
        """Of the user-level units."""
        init_dropout: float = Field(0.0, ge=0, lt=1)
        """Of the first hidden state of a session."""

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """The vectors that items come in by."""
        return (head.Lookup("items", (config.history,), config.hidden, pooling="none"),)

    @classmethod
    def catalog(cls, config: Config, manifest: Manifest) -> head.Catalog:
        """The vectors and biases that items are scored by."""
        tied = "items" if config.embedding == "shared" else None
        return head.Catalog("output", config.target, config.hidden, tied=tied)

    @classmethod
    def state_size(cls, config: Config) -> int:
        """Hidden units of the session and of the user."""
        return config.hidden + config.user_hidden

    @classmethod
    def unit(cls, config: Config) -> str | None:
        """The user."""
        return config.user

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.config = config
        self.session = GRUCell(config.hidden + config.user_hidden * (config.variant == "all"), config.hidden)
        self.user = GRUCell(config.hidden, config.user_hidden)
        self.init = nn.Linear(config.user_hidden, config.hidden)
        self.embedding_dropout, self.hidden_dropout, self.user_dropout, self.init_dropout = map(
            Dropout, (config.embedding_dropout, config.hidden_dropout, config.user_dropout, config.init_dropout)
        )

    def forward(self, inputs: head.Inputs) -> head.Query:
        """The session-level units, [B, H], and the state, [B, H + U]."""
        assert inputs.state is not None
        assert inputs.lanes is not None
        h_BH, c_BU = inputs.state.split((self.config.hidden, self.config.user_hidden), dim=1)
        h_BH, c_BU = self._began(h_BH, c_BU, inputs.lanes.starts_session & ~inputs.lanes.starts_unit)
        x_BD = self.embedding_dropout(inputs.sequences["items"][self.config.history].values)
        if self.config.variant == "all":
            x_BD = torch.cat([x_BD, c_BU], dim=1)
        h_BH = self.session(x_BD, h_BH)
        return head.Query(self.hidden_dropout(h_BH), state=torch.cat([h_BH, c_BU], dim=1))

    def _began(self, h_BH: Tensor, c_BU: Tensor, begins_B: Tensor) -> tuple[Tensor, Tensor]:
        """The states of session and user, where a further session of the user begins brought up to it."""
        begins_B1 = begins_B.unsqueeze(1)
        after_BU = self.user_dropout(self.user(h_BH, c_BU))
        first_BH = self.init_dropout(self.init(after_BU).tanh())
        return torch.where(begins_B1, first_BH.to(h_BH.dtype), h_BH), torch.where(
            begins_B1, after_BU.to(c_BU.dtype), c_BU
        )
