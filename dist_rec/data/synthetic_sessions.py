"""Raw session logs of users with a lasting taste, made from a known model: what helps is to remember a user.

Each user has one of K tastes, and keeps it over all sessions. What follows an item depends on item and taste: for each
taste the items are laid on a circle of their own, and the next item is the following one there, or with probability
`NOISE` any item. A single event says nothing of the taste, a few do, and earlier sessions do from the first one on.

Shapes: S sessions of all users, T events of the longest, I items, K tastes.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from dist_rec.data.shards import new_folder

NOISE = 0.2
LENGTHS = (2, 6)
"""Fewest and most events of a session."""
SESSIONS = (4, 12)
"""Likewise sessions of a user."""
FILE = "sessions.csv.gz"


def synthesize_sessions(out: Path, users: int, items: int, tastes: int, seed: int) -> int:
    """Writes `out/sessions.csv.gz` with columns user, session, item and time (in seconds), in order of time.

    Args:
        out: the folder to make.
        users: their number.
        items: I.
        tastes: K; the more there are, the less a few events tell of them.
        seed: of everything.

    Returns:
        The number of events.

    Raises:
        UserError: if the folder exists.
    """
    rng = np.random.default_rng(seed)
    sessions_U = rng.integers(SESSIONS[0], SESSIONS[1] + 1, users)
    user_S = np.repeat(np.arange(users), sessions_U)
    length_S = rng.integers(LENGTHS[0], LENGTHS[1] + 1, len(user_S))
    item_ST = _walks(rng, rng.integers(tastes, size=users)[user_S], items, tastes)
    time_S = rng.permutation(len(user_S)) * 3600
    order_S = np.lexsort((time_S, user_S))
    # A user's sessions are numbered in order of time.
    user_S, time_S, length_S, item_ST = user_S[order_S], time_S[order_S], length_S[order_S], item_ST[order_S]
    there_ST = np.arange(LENGTHS[1]) < length_S[:, None]
    event_ST = np.broadcast_to(np.arange(LENGTHS[1]), there_ST.shape)
    session_E = np.repeat(np.arange(len(user_S)), length_S)
    time_E = time_S[session_E] + event_ST[there_ST] * 60
    log = pa.table({"user": user_S[session_E], "session": session_E, "item": item_ST[there_ST], "time": time_E})
    with new_folder(out) as folder, pa.CompressedOutputStream(str(folder / FILE), "gzip") as file:
        pacsv.write_csv(log.sort_by([("time", "ascending"), ("session", "ascending")]), file)
    return len(log)


def _walks(rng: np.random.Generator, taste_S: NDArray[np.int64], items: int, tastes: int) -> NDArray[np.int64]:
    """Items of sessions as long as the longest, [S, T]."""
    circle_KI = rng.permuted(np.tile(np.arange(items), (tastes, 1)), axis=1)
    place_KI = np.argsort(circle_KI, axis=1)
    item_ST = np.empty((len(taste_S), LENGTHS[1]), np.int64)
    item_ST[:, 0] = rng.integers(items, size=len(taste_S))
    for step in range(1, LENGTHS[1]):
        following_S = circle_KI[taste_S, (place_KI[taste_S, item_ST[:, step - 1]] + 1) % items]
        is_noise_S = rng.random(len(taste_S)) < NOISE
        item_ST[:, step] = np.where(is_noise_S, rng.integers(items, size=len(taste_S)), following_S)
    return item_ST
