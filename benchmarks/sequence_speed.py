"""Training speed of GRU4Rec and Caser beside their authors' code: same sizes and data, one process; runs in turn.

    python benchmarks/sequence_speed.py gru4rec --data data/yoochoose --peer GRU4REC_CHECKOUT --batch 256
    python benchmarks/sequence_speed.py caser --data data/ml1m_windows --peer CASER_CHECKOUT --batch 4096

Both peers train an epoch by their own `fit`, from arrays in memory, and so does ours, from shards; the peers' reading
of files and anybody's evaluation are left out. GRU4Rec's rate is of events, Caser's of windows. GRU4Rec's code needs
pandas below 3.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from side_by_side import compare, our_rate, peer_rate

from dist_rec.data.loader import Loader, LoaderConfig
from dist_rec.data.shards import Dataset

GRU4REC = """
import contextlib, io, re, sys
import numpy as np, pandas, torch, gru4rec_pytorch

arrays = np.load(sys.argv[1])
place = np.arange(len(arrays["item"]))
events = pandas.DataFrame({"SessionId": arrays["sequence"], "ItemId": arrays["item"].astype(str), "Time": place})
model = gru4rec_pytorch.GRU4Rec(
    layers=[100], loss="cross-entropy", batch_size=32, dropout_p_embed=0.1, learning_rate=0.1, sample_alpha=0.75,
    n_sample=2048, constrained_embedding=True, n_epochs=1, logq=1.0, device=torch.device("cpu"),
)
with contextlib.redirect_stdout(io.StringIO()) as said:
    model.fit(events, compatibility_mode=False)  # the initial weights of its Theano version need an older NumPy
print("rate", re.search(r"([0-9.]+) e/s", said.getvalue())[1])
"""
CASER = """
import contextlib, io, re, sys, tempfile
from types import SimpleNamespace
import numpy as np
from interactions import Interactions
from train_caser import Recommender

arrays = np.load(sys.argv[1])
with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
    file.writelines(f"{user} {item} 1\\n" for user, item in zip(arrays["sequence"], arrays["item"]))
    file.flush()
    train = Interactions(file.name)
train.to_sequence(5, 3)
sizes = SimpleNamespace(L=5, d=50, nh=16, nv=4, drop=0.5, ac_conv="relu", ac_fc="relu")
model = Recommender(
    n_iter=1, batch_size=512, learning_rate=1e-3, l2=1e-6, neg_samples=3, model_args=sizes, use_cuda=False
)
with contextlib.redirect_stdout(io.StringIO()) as said:
    model.fit(train, None)
print("rate", len(train.sequences.sequences) / float(re.search(r"Epoch 1 \\[([0-9.]+) s\\]", said.getvalue())[1]))
"""


def rows(data: Path, columns: tuple[str, ...]) -> Iterator[tuple[list[int], ...]]:
    """The ids of some columns of each training row, in the order of the files."""
    dataset, config = Dataset(data), LoaderConfig(path=str(data))
    loader = Loader(dataset, "train", config, batch=8192, features=columns, shuffle=False)
    for batch in loader.batches(0, loader.steps_per_epoch):
        read = [batch.column(name) for name in columns]
        split = [column.values.split(column.lengths.tolist()) for column in read]
        yield from (tuple(part.tolist() for part in parts) for parts in zip(*split, strict=True))


def sessions(data: Path) -> list[list[int]]:
    """The items of each session."""
    return [[*history, target[-1]] for history, target in rows(data, ("history", "target"))]


def users(data: Path) -> list[list[int]]:
    """The items of each user, out of windows that begin an item after each other."""
    items: dict[int, list[int]] = {}
    for (user,), history, target in rows(data, ("user", "history", "target")):
        if user in items:
            items[user].append(target[-1])
        else:
            items[user] = [item for item in (*history, *target) if item]
    return list(items.values())


def save(sequences: list[list[int]], path: Path) -> None:
    """The items end to end, and the number of each one's sequence."""
    lengths = [len(items) for items in sequences]
    item = np.concatenate([np.array(items) for items in sequences])
    np.savez(path, item=item, sequence=np.repeat(np.arange(len(sequences)), lengths))


@dataclass(frozen=True)
class Case:
    """What is measured of a head."""

    config: str
    peer: str
    script: str
    batch: int
    """The peer's, and one of ours."""
    sequences: Callable[[Path], list[list[int]]]

    def rates(self, data: Path, peer: Path, arrays: Path, batch: int) -> dict[str, Callable[[], float]]:
        """The peer, and ours in its batches and in others."""
        save(self.sequences(data), arrays)
        ours = {
            f"ours, batch {size}": partial(our_rate, self.config, data, "train.epochs=1", f"train.batch={size}")
            for size in (self.batch, batch)
        }
        return {f"{self.peer}, batch {self.batch}": partial(peer_rate, self.script, peer, arrays), **ours}


CASES = {
    "gru4rec": Case("gru4rec_yoochoose", "GRU4Rec_PyTorch_Official", GRU4REC, 32, sessions),
    "caser": Case("caser_ml1m", "caser_pytorch", CASER, 512, users),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("head", choices=[*CASES])
    parser.add_argument("--data", type=Path, required=True, help="a folder made by `dist-rec prepare sessions`")
    parser.add_argument("--peer", type=Path, required=True, help="the folder of the peer's code")
    parser.add_argument("--batch", type=int, required=True, help="another batch of ours")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rates = CASES[chosen.head].rates(
            chosen.data.resolve(), chosen.peer, Path(folder) / "sequences.npz", chosen.batch
        )
        compare(rates, chosen.repeats)
