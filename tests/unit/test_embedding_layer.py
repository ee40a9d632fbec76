"""What the layer does to bags before and after the lookup, on one process without sharding."""

from dataclasses import replace

import pytest
import torch

from dist_rec.core.errors import UserError
from dist_rec.core.head import Lookup
from dist_rec.embedding.layer import EmbeddingLayer
from dist_rec.embedding.tables import EmbeddingConfig, embedding_tables
from tests.distributed.test_sharding import ROWS, make_batch
from tests.small_head import MANIFEST

BATCH = make_batch(0, ROWS, 1, ROWS + 2)
SUM = Lookup("bags", ("scores", "tags"), 4)


def build(lookup: Lookup) -> EmbeddingLayer:
    layer = EmbeddingLayer((lookup,), embedding_tables((lookup,), MANIFEST, EmbeddingConfig()))
    layer.to_empty(device=torch.device("cpu"))
    torch.manual_seed(0)
    for weights in layer.parameters():
        torch.nn.init.uniform_(weights)
    return layer


def test_sqrtn_divides_by_the_norm_of_the_weights() -> None:
    sums = build(SUM)(BATCH).pooled["bags"]
    scaled = build(replace(SUM, pooling="sqrtn"))(BATCH).pooled["bags"]
    scores, tags = BATCH.weighted_ids["scores"], BATCH.ids["tags"]
    for row, weights in enumerate(scores.weights().split(scores.lengths().tolist())[:ROWS]):
        torch.testing.assert_close(scaled[row, 0], sums[row, 0] / (weights.norm() if len(weights) else 1))
        torch.testing.assert_close(scaled[row, 1], sums[row, 1] / max(1, int(tags.lengths()[row])) ** 0.5)


def test_dropout_leaves_ids_out_in_training_alone() -> None:
    lookup = Lookup("bags", ("scores",), 12, dropout=0.25)
    layer = build(lookup)
    with torch.no_grad():
        for table in layer.parameters():
            table.copy_(torch.eye(*table.shape))  # column i has the weight of id i
    alone_B = BATCH.weighted_ids["scores"].lengths()[:ROWS] == 1
    whole = layer.eval()(BATCH).pooled["bags"][alone_B]
    layer.train()
    drawn = torch.stack([layer(BATCH).pooled["bags"][alone_B] for _ in range(400)])
    kept = drawn > 0
    torch.testing.assert_close(drawn[kept], (whole / 0.75).expand_as(drawn)[kept])
    share = kept.float().mean(0)[whole > 0]
    torch.testing.assert_close(share, torch.full_like(share, 0.75), atol=0.1, rtol=0)


def test_dropout_needs_weights() -> None:
    with pytest.raises(UserError, match="lookup 'bags': dropout needs weighted bags, but 'tags' has no weights"):
        embedding_tables((replace(SUM, dropout=0.5),), MANIFEST, EmbeddingConfig())
