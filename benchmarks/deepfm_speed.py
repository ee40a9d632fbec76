"""Training speed of DeepFM beside deepctr-torch's: same model, data, batch, one process; runs in turn.

    python benchmarks/deepfm_speed.py --data data/criteo --peer FOLDER_WITH_DEEPCTR_TORCH

DeepFM of dimension 16 with an MLP of 400-400-400 and batches of 2048. The peer trains by its own `fit` with its usual
settings (Adam, dropout .1, L2 1e-5, float32), from arrays in memory and without evaluation; ours streams from shards
and evaluates after the last step alone.
`pip install --no-deps --target FOLDER deepctr-torch requests` brings the peer.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from side_by_side import beside, our_rate, peer_rate

BATCH, EPOCHS = 2048, 5
NEVER = 10**9
SETTINGS = (f"train.batch={BATCH}", f"train.epochs={EPOCHS}", "head.dropout=0.1", f"train.evaluate_every={NEVER}")
PEER = f"""
import sys, time
import numpy as np, torch
from deepctr_torch.inputs import DenseFeat, SparseFeat
from deepctr_torch.models import DeepFM

arrays = np.load(sys.argv[1])
dense, sparse, sizes = arrays["dense"], arrays["sparse"], arrays["sizes"]
columns = [SparseFeat(f"c{{i}}", int(size), embedding_dim=16) for i, size in enumerate(sizes)]
columns += [DenseFeat(f"d{{i}}", 1) for i in range(dense.shape[1])]
inputs = {{f"c{{i}}": sparse[:, i] for i in range(sparse.shape[1])}}
inputs |= {{f"d{{i}}": dense[:, i] for i in range(dense.shape[1])}}
model = DeepFM(columns, columns, dnn_hidden_units=(400, 400, 400), dnn_dropout=0.1)
model.compile(torch.optim.Adam(model.parameters(), 1e-3), "binary_crossentropy")
began = time.perf_counter()
model.fit(inputs, arrays["labels"], batch_size={BATCH}, epochs={EPOCHS}, verbose=0)
print("rate", len(dense) * {EPOCHS} / (time.perf_counter() - began))
"""


def rates(data: Path, peer: Path, arrays: Path) -> dict[str, Callable[[], float]]:
    """What is measured."""
    return {
        "deepctr-torch fp32": partial(peer_rate, PEER, peer, arrays),
        "ours bf16": partial(our_rate, "deepfm_criteo", data, *SETTINGS),
        "ours fp32": partial(our_rate, "deepfm_criteo", data, *SETTINGS, "train.precision=fp32"),
    }


if __name__ == "__main__":
    beside(__doc__, rates)
