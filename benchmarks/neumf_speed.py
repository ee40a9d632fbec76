"""Training speed of NeuMF beside guoyang9/NCF's model: same sizes and data, one process; runs in turn.

    python benchmarks/neumf_speed.py --data data/ml-1m_loo --peer NCF_CHECKOUT

NeuMF of 32 factors, an MLP of three layers and four negatives a positive. The peer trains its model with its optimizer
at its batch of 256 examples from arrays in memory: its loader, which makes one Python object a row, and the time in
which it draws negatives are left out. Ours streams from shards and draws negatives on the way. The rates are of
examples: positives and negatives.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from side_by_side import beside, our_rate, peer_rate

NEGATIVES = 4
EXAMPLES = 2_000_000
PEER = f"""
import sys, time
import numpy as np, torch, model

arrays = np.load(sys.argv[1])
users, items = (int(size) for size in arrays["sizes"])
positives = torch.from_numpy(arrays["sparse"])
user = positives[:, 0].repeat_interleave(1 + {NEGATIVES})
item = torch.cat([positives[:, 1:], torch.randint(items, (len(positives), {NEGATIVES}))], dim=1).view(-1)
label = torch.tensor([1.0] + [0.0] * {NEGATIVES}).repeat(len(positives))
ncf = model.NCF(users, items, 32, 3, 0.0, "NeuMF-end")
optimizer = torch.optim.Adam(ncf.parameters(), lr=0.001)
criterion = torch.nn.BCEWithLogitsLoss()
ncf.train()
began = time.perf_counter()
for rows in torch.randperm(len(label))[:{EXAMPLES}].split(int(sys.argv[2])):
    ncf.zero_grad()
    criterion(ncf(user[rows], item[rows]), label[rows]).backward()
    optimizer.step()
print("rate", {EXAMPLES} / (time.perf_counter() - began))
"""


def our_examples(data: Path, batch: int) -> float:
    """Examples a second, with so many in a batch."""
    positives = batch // (1 + NEGATIVES)
    steps = EXAMPLES // batch
    settings = (f"task.negatives={NEGATIVES}", f"train.batch={positives}", f"train.steps={steps}")
    return (1 + NEGATIVES) * our_rate("neumf_ml1m", data, *settings)


def rates(data: Path, peer: Path, arrays: Path) -> dict[str, Callable[[], float]]:
    """What is measured."""
    return {
        "NCF, batch 256": partial(peer_rate, PEER, peer, arrays, "256"),
        "NCF, batch 20,480": partial(peer_rate, PEER, peer, arrays, "20480"),
        "ours, batch 20,480": partial(our_examples, data, 20480),
    }


if __name__ == "__main__":
    beside(__doc__, rates, ("user", "item"))
