"""LR: logistic regression on all features, Richardson et al. 2007, "Predicting Clicks" (equation 1)."""

import torch
from torch import Tensor, nn

from dist_rec.core import config, head
from dist_rec.core.schema import Manifest
from dist_rec.nn.fields import Fields, id_features


class LR(head.Head):
    """One weight for each id and each dense feature."""

    class Config(config.Config):
        """No settings."""

    @classmethod
    def lookups(cls, config: Config, manifest: Manifest) -> tuple[head.Lookup, ...]:
        """One weight for each id."""
        return (head.Lookup("weights", id_features(manifest), 1),)

    def __init__(self, config: Config, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self.fields = Fields(manifest, len(id_features(manifest)), 1)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, inputs: head.Inputs) -> Tensor:
        """Logits, [B]."""
        return self.bias + self.fields(inputs.dense, inputs.pooled["weights"]).sum((1, 2))
