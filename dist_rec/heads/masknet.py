"""MaskNet: Wang, She and Zhang 2021, "Introducing Feature-Wise Multiplication to CTR Ranking Models" (section 3)."""

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.schema import Manifest
from dist_rec.nn.fields import FieldsHead
from dist_rec.nn.mlp import MLP


class MaskBlock(nn.Module):
    """A linear layer on inputs that are multiplied by a mask, then layer normalisation and ReLU.

    Args:
        instance: I, columns of the instance (all embeddings), from which the mask is computed.
        inputs: J, columns of the masked input.
        width: columns of the output.
        reduction: width of the mask's hidden layer divided by I; the layer has at least one unit.
    """

    def __init__(self, instance: int, inputs: int, width: int, reduction: float) -> None:
        super().__init__()
        self.mask = MLP(instance, (max(1, int(instance * reduction)), inputs), last_linear=True)
        self.linear = nn.Linear(inputs, width, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, instance_BI: Tensor, x_BJ: Tensor) -> Tensor:
        """[B, I] and [B, J] → [B, width]."""
        return self.norm(self.linear(self.mask(instance_BI) * x_BJ)).relu()


class MaskNet(FieldsHead):
    """Mask blocks on the embeddings (parallel), or each on the output of the block before (serial)."""

    class Config(config.Config):
        """Sizes of the model."""

        dim: int = Field(16, gt=0)
        """Embedding dimension, D."""
        structure: Literal["serial", "parallel"] = "parallel"
        """Arrangement of the mask blocks."""
        blocks: tuple[PositiveInt, ...] = Field((128, 128, 128), min_length=1)
        """Width of each mask block."""
        reduction: float = Field(1.0, gt=0)
        """Width of a mask's hidden layer divided by that of all embeddings together, the input of every mask. The paper
        divides by the width of the mask, which in serial blocks after the first is that of the block before."""
        hidden: tuple[PositiveInt, ...] = (400, 400)
        """Hidden layers of the MLP on the blocks' output."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Dropout probability of the MLP's hidden units."""

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.norm = nn.LayerNorm(config.dim)
        self.parallel = config.structure == "parallel"
        instance = self.fields.count * config.dim
        inputs = [instance] * len(config.blocks) if self.parallel else [instance, *config.blocks[:-1]]
        self.blocks = nn.ModuleList(
            MaskBlock(instance, before, width, config.reduction)
            for before, width in zip(inputs, config.blocks, strict=True)
        )
        outputs = sum(config.blocks) if self.parallel else config.blocks[-1]
        self.deep = MLP(outputs, (*config.hidden, 1), dropout=config.dropout, last_linear=True)

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Logits, [B]."""
        x_BFD = self.fields(inputs.dense, inputs.pooled["factors"])
        instance_BI, masked_BI = x_BFD.flatten(1), self.norm(x_BFD).flatten(1)
        if self.parallel:
            return self.deep(torch.cat([block(instance_BI, masked_BI) for block in self.blocks], dim=1)).squeeze(1)
        for block in self.blocks:
            masked_BI = block(instance_BI, masked_BI)
        return self.deep(masked_BI).squeeze(1)
