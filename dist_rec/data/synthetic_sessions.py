"""Raw session logs of users with a lasting taste, made from a known model: what helps is to remember a user.

Each user keeps one of K brands over all sessions. A session is about one of G genres: it begins with the genre's lead
item, which is the same for all users, and goes on with products of the genre, which are of the user's brand, or with
probability `NOISE` of any. So the session tells nothing of the brand at its first event, and earlier ones all of it.

Shapes: S sessions of all users, T events of the longest, G genres, K brands.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from dist_rec.data.shards import new_folder

NOISE = 0.2
PRODUCTS = 2
"""Of a brand in a genre."""
LENGTHS = (2, 4)
"""Fewest and most events of a session."""
SESSIONS = (4, 12)
"""Likewise sessions of a user."""
FILE = "sessions.csv.gz"


def synthesize_sessions(out: Path, users: int, genres: int, brands: int, seed: int) -> int:
    """Writes `out/sessions.csv.gz` with columns user, session, item and time (in seconds), in order of time.

    Args:
        out: the folder to make.
        users: their number.
        genres: G.
        brands: K.
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
    item_ST = _items(rng, rng.integers(brands, size=users)[user_S], genres, brands)
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


def _items(rng: np.random.Generator, brand_S: NDArray[np.int64], genres: int, brands: int) -> NDArray[np.int64]:
    """Items of sessions as long as the longest, [S, T]."""
    shape = (len(brand_S), LENGTHS[1])
    genre_S1 = rng.integers(genres, size=(len(brand_S), 1))
    brand_ST = np.where(rng.random(shape) < NOISE, rng.integers(brands, size=shape), brand_S[:, None])
    item_ST = genres + (genre_S1 * brands + brand_ST) * PRODUCTS + rng.integers(PRODUCTS, size=shape)
    item_ST[:, :1] = genre_S1
    return item_ST
