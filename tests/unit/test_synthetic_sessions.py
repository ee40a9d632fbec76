"""Synthetic sessions: a genre's lead item, then products that are mostly of the user's brand."""

from pathlib import Path

import numpy as np
import pyarrow.csv as pacsv

from dist_rec.data.synthetic_sessions import FILE, LENGTHS, NOISE, PRODUCTS, SESSIONS, synthesize_sessions


def test_users_keep_their_brand_over_sessions(tmp_path: Path) -> None:
    users, genres, brands = 300, 6, 8
    events = synthesize_sessions(tmp_path / "raw", users, genres, brands, seed=1)
    log = pacsv.read_csv(tmp_path / "raw" / FILE)
    user_E, session_E, item_E, time_E = (column.to_numpy() for column in log.columns)
    assert len(log) == events
    assert (np.diff(time_E) >= 0).all()
    session_S, first_S, length_S = np.unique(session_E, return_index=True, return_counts=True)
    assert set(length_S.tolist()) == set(range(LENGTHS[0], LENGTHS[1] + 1))
    assert (user_E == user_E[first_S][session_E]).all()
    assert set(np.bincount(user_E[first_S]).tolist()) <= set(range(SESSIONS[0], SESSIONS[1] + 1))
    assert set(item_E[first_S].tolist()) == set(range(genres))
    is_product_E = item_E >= genres
    assert is_product_E.sum() == len(log) - len(session_S)
    place = (item_E - genres) // PRODUCTS
    assert (place // brands == item_E[first_S][session_E])[is_product_E].all()
    counts_UK = np.zeros((users, brands))
    np.add.at(counts_UK, (user_E[is_product_E], place[is_product_E] % brands), 1)
    share = (counts_UK.max(axis=1) / counts_UK.sum(axis=1)).mean()
    assert abs(share - (1 - NOISE + NOISE / brands)) < 0.05


def test_the_seed_is_all_that_matters(tmp_path: Path) -> None:
    made = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        synthesize_sessions(tmp_path / name, 20, 3, 4, seed)
        made.append(pacsv.read_csv(tmp_path / name / FILE))
    assert made[0] == made[1] != made[2]
