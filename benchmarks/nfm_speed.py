"""Training speed of NFM beside guoyang9/NFM-pyorch's: same model and data, one process; runs in turn.

    python benchmarks/nfm_speed.py --data data/frappe --peer NFM_CHECKOUT

NFM of dimension 64 with one hidden layer of 64, batch normalisation, dropout and squared loss, as the peer has it by
default. The peer trains its own model and optimizer at its batch of 128, from arrays in memory that are shuffled as a
whole: its loader, which makes one Python object a row, is left out. Ours streams from shards with the batch of the
config.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from side_by_side import compare, our_rate, peer_rate, training_arrays

EPOCHS = 2
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


def main() -> None:
    """Prints the medians and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder made by `dist-rec prepare libfm`")
    parser.add_argument("--peer", type=Path, required=True, help="a checkout of guoyang9/NFM-pyorch")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each")
    arguments = parser.parse_args()
    data = arguments.data.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        arrays = Path(temporary) / "train.npz"
        np.savez(arrays, **training_arrays(data))
        compare(
            {
                "NFM-pyorch, batch 128": partial(peer_rate, PEER, arguments.peer, arrays, "128"),
                "NFM-pyorch, batch 512": partial(peer_rate, PEER, arguments.peer, arrays, "512"),
                "ours, batch 128": partial(our_rate, "nfm_frappe", data, *SETTINGS, "train.batch=128"),
                "ours, batch 512": partial(our_rate, "nfm_frappe", data, *SETTINGS, "train.batch=512"),
            },
            arguments.repeats,
        )


if __name__ == "__main__":
    main()
