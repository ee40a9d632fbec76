"""Gated recurrent units a step at a time: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder
for Statistical Machine Translation" (equations 5 to 8), in the form of cuDNN and `torch.nn.GRUCell`.

Shapes: B rows, D inputs, H hidden units.
"""

import math

import torch
from torch import Tensor, nn


class GRUCell(nn.Module):
    """One step of a GRU.

    Args:
        inputs: D; 0 where what comes in has its 3 H gates already, as from an embedding of an item for each.
        hidden: H.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(hidden)
        self.input = nn.Linear(inputs, 3 * hidden) if inputs else None
        self.hidden = nn.Linear(hidden, 3 * hidden)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x_BD: Tensor, h_BH: Tensor) -> Tensor:
        """The next hidden state, [B, H]."""
        x_B3H = x_BD if self.input is None else self.input(x_BD)
        x_B2H, x_BH = x_B3H.split((2 * h_BH.shape[1], h_BH.shape[1]), dim=1)
        h_B2H, candidate_BH = self.hidden(h_BH).split((2 * h_BH.shape[1], h_BH.shape[1]), dim=1)
        reset_BH, update_BH = (x_B2H + h_B2H).sigmoid().chunk(2, dim=1)
        new_BH = (x_BH + reset_BH * candidate_BH).tanh()
        return torch.lerp(new_BH, h_BH.to(new_BH.dtype), update_BH)
