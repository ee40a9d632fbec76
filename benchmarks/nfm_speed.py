"""Training speed of NFM beside guoyang9/NFM-pyorch's: same model and data, one process; runs in turn.

    python benchmarks/nfm_speed.py --data data/frappe --peer NFM_CHECKOUT

NFM of dimension 64 with one hidden layer of 64, batch normalisation, dropout and squared loss, as the peer has it by
default. The peer trains its own model and optimizer at its batch of 128, from arrays in memory that are shuffled as a
whole: its loader, which makes one Python object a row, is left out. Ours streams from shards with the batch of the
config.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from side_by_side import beside, our_rate, peer_rate

EPOCHS = 4
SETTINGS = (f"train.epochs={EPOCHS}", "head.dim=64", "head.hidden=[64]")
PEER = f"""
import sys, time
import numpy as np, torch, model

arrays = np.load(sys.argv[1])
sizes = arrays["sizes"]
features = torch.from_numpy(arrays["sparse"] + (sizes.cumsum() - sizes))
labels = torch.from_numpy(arrays["labels"]).squeeze(1)
values = torch.ones(features.shape)
nfm = model.NFM(int(sizes.sum()), 64, "relu", [64], True, [0.5, 0.2], None)
optimizer = torch.optim.Adagrad(nfm.parameters(), lr=0.05, initial_accumulator_value=1e-8)
criterion = torch.nn.MSELoss(reduction="sum")
nfm.train()
began = time.perf_counter()
for _ in range({EPOCHS}):
    for rows in torch.randperm(len(labels)).split(int(sys.argv[2])):
        nfm.zero_grad()
        criterion(nfm(features[rows], values[rows]), labels[rows]).backward()
        optimizer.step()
print("rate", len(labels) * {EPOCHS} / (time.perf_counter() - began))
"""


def rates(data: Path, peer: Path, arrays: Path) -> dict[str, Callable[[], float]]:
    """What is measured."""
    return {
        "NFM-pyorch, batch 128": partial(peer_rate, PEER, peer, arrays, "128"),
        "NFM-pyorch, batch 1,024": partial(peer_rate, PEER, peer, arrays, "1024"),
        "ours, batch 128": partial(our_rate, "nfm_frappe", data, *SETTINGS, "train.batch=128"),
        "ours, batch 1,024": partial(our_rate, "nfm_frappe", data, *SETTINGS),
    }


if __name__ == "__main__":
    beside(__doc__, rates)
