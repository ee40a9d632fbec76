"""Caser: Tang and Wang 2018, "Personalized Top-N Sequential Recommendation via Convolutional Sequence Embedding".

The last L items of a user are an image of L x D, which horizontal filters search for runs of items (union-level
patterns) and vertical ones sum up (point-level patterns). A fully connected layer makes D columns of what they find,
which together with the user's embedding are scored against all items (sections 3.1 to 3.3). A row has several targets,
the T items after its window (skip behaviours, section 3.4); the loss is the task's, `next_item` with logistic loss.

As in the authors' code, dropout is of the input of the fully connected layer, and row 0, by which short windows are
filled up, has a vector like any item.

Shapes: B rows, L items, V = B L items of all rows, D dimension.
"""

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.errors import UserError
from dist_rec.core.schema import Manifest
from dist_rec.nn.convolution import ACTIVATIONS, Activation, SequenceConvolution
from dist_rec.nn.dropout import Dropout


class Caser(head.CatalogHead):
    """Convolutions over a user's last items."""

    class Config(config.Config):
        """Sizes of the model."""

        user: str = "user"
        """Categorical column of the user."""
        history: str = "history"
        """Sequence of the user's last items, as many in every row."""
        target: str = "target"
        """Sequence of the items that follow."""
        length: int = Field(5, gt=0)
        """Items of a history, L."""
        dim: int = Field(50, gt=0)
        """Dimension of items and users, D; items are scored by vectors of 2 D."""
        horizontal: int = Field(16, ge=0)
        """Horizontal filters of each height from 1 to L."""
        vertical: int = Field(4, ge=0)
        """Vertical filters."""
        activation: Activation = "relu"
        """Of the horizontal filters and of the fully connected layer, φ_c and φ_a."""
        dropout: float = Field(0.5, ge=0, lt=1)
        """Of what goes into the fully connected layer."""

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """The user and the items, whose weights start with the authors' deviation of 1 / D."""
        init = _uniform(1 / config.dim)
        return (
            head.Lookup("user", (config.user,), config.dim, init=init),
            head.Lookup("items", (config.history,), config.dim, pooling="none", init=init),
        )

    @classmethod
    def catalog(cls, config: Config, manifest: Manifest) -> head.Catalog:
        """The vectors and biases that items are scored by, W' and b' of section 3.3."""
        return head.Catalog("output", config.target, 2 * config.dim, init=_uniform(1 / (2 * config.dim)))

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.config = config
        self.convolution = SequenceConvolution(
            config.length, config.dim, config.horizontal, config.vertical, config.activation
        )
        self.dropout, self.activation = Dropout(config.dropout), ACTIVATIONS[config.activation]
        self.connected = nn.Linear(self.convolution.outputs, config.dim)

    def forward(self, inputs: head.Inputs) -> head.Query:
        """What the items and the user say, [B, 2 D]."""
        found_BO = self.convolution(self._images(inputs))
        z_BD = self.activation(self.connected(self.dropout(found_BO)))
        return head.Query(torch.cat([z_BD, inputs.pooled["user"].squeeze(1)], dim=1))

    def _images(self, inputs: head.Inputs) -> Tensor:
        """The items of each row end to end, [B, L D].

        Raises:
            UserError: if histories are not of the same length.
        """
        x_VD, length = inputs.sequences["items"][self.config.history].values, self.config.length
        if len(x_VD) != len(inputs.dense) * length:
            raise UserError(
                f"head caser: histories are not of {length} items each, head.length; prepare the data with "
                f"--layout windows --length {length}"
            )
        return x_VD.reshape(len(inputs.dense), length * self.config.dim)


def _uniform(deviation: float) -> float:
    """The bound of a uniform distribution of that standard deviation."""
    return math.sqrt(3) * deviation
