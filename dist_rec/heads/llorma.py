"""LLORMA: Lee et al. 2013, "Local Low-Rank Matrix Approximation"; trained jointly as in Lee et al. 2016 (section 5.2).

A rating is the mean of local models with an anchor each, a user and an item. A model counts the more the nearer the
rating's user and item are to its anchor: w_t is the product of two kernels of the angles between their factors and the
anchor's. Factors and anchors come from a matrix factorisation that was trained before (`pretrained.runs` = a run of
head `mf` without biases); without one all weights are 1.

Departures:
- Where the papers train each local model from nothing, and fall back on the global one without an anchor nearby, here
  it is the global one plus a low-rank product p_t·q_t, and the global one counts everywhere with weight 1.
- The factors are trained on, and the angles are those between the factors as they are now and the anchors as they were
  at the start; the papers' distances are fixed before the local models are trained.
- The kernel of an angle d is max(0, 1 - (d/h)²), which falls to 0 at the bandwidth h; Lee et al. 2013 have
  (1 - d²) 1[d ≤ h], which is cut off there.

Shapes: B rows, F = 2 features (user and item), A anchors, G global factors, L local factors.
"""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from dist_rec.core import config, head
from dist_rec.core.errors import UserError
from dist_rec.core.schema import Manifest
from dist_rec.core.table_name import TableName
from dist_rec.nn.fields import id_features

PAIR = ("user", "item")


class LLORMA(head.Head):
    """Local factorisations around anchors."""

    class Config(config.Config):
        """Sizes of the model."""

        dim: int = Field(64, gt=0)
        """Factors of the matrix factorisation that distances are measured in, G."""
        anchors: int = Field(30, gt=0)
        """Local models, A."""
        rank: int = Field(10, gt=0)
        """Factors of a user or an item in each, L."""
        bandwidth: float = Field(0.8, gt=0)
        """Angle from which on a model does not count, in radians, h."""

    anchors_FAG: Tensor

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """Global factors, under the name that head `mf` gives them, and local ones."""
        pair = id_features(manifest, PAIR)
        return head.Lookup("factors", pair, config.dim), head.Lookup("local", pair, config.anchors * config.rank)

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.config = config
        self.tables = [(str(TableName("factors", manifest.table_of(name))), manifest.rows_of(name)) for name in PAIR]
        self.register_buffer("anchors_FAG", torch.zeros(len(PAIR), config.anchors, config.dim))

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Ratings, [B]."""
        factors_BFG = inputs.pooled["factors"]
        local_BA = inputs.pooled["local"].prod(1).unflatten(1, (self.config.anchors, -1)).sum(2)
        weight_BA = self._kernel(factors_BFG.detach())
        return factors_BFG.prod(1).sum(1) + (weight_BA * local_BA).sum(1) / (1 + weight_BA.sum(1))

    def _kernel(self, factors_BFG: Tensor) -> Tensor:
        """w of each row and anchor, [B, A]; never in bf16, to which small angles are all alike."""
        with torch.autocast(factors_BFG.device.type, enabled=False):
            unit_FBG = functional.normalize(factors_BFG.to(self.anchors_FAG.dtype).transpose(0, 1), dim=2)
            cosine_FBA = unit_FBG @ self.anchors_FAG.transpose(1, 2)
        scaled_FBA = cosine_FBA.clamp(-1, 1).acos() / self.config.bandwidth
        known = self.anchors_FAG.any()
        return torch.where(known, (1 - scaled_FBA.square()).clamp(min=0).prod(0), 1.0)

    def adopt(self, pretrained: list[dict[str, Tensor]], rows: head.TableRows) -> None:
        """As every head; draws the anchors from the ids, more often small ones: those with the most ratings."""
        if any("mean" in state for state in pretrained):
            raise UserError("head 'llorma' starts from factors alone: train the run of `mf` with head.biases=false")
        super().adopt(pretrained, rows)
        generator = torch.Generator().manual_seed(0)
        for own_AG, (table, count) in zip(self.anchors_FAG, self.tables, strict=True):
            drawn_A = torch.rand(len(own_AG), generator=generator).square() * (count - 1)
            own_AG.copy_(functional.normalize(rows(table, 1 + drawn_A.long()), dim=1))
