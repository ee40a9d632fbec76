"""Synthetic sessions: a genre's lead item, then products that are mostly of the user's brand."""

from pathlib import Path

import pyarrow.csv as pacsv

from dist_rec.data.synthetic_sessions import FILE, LENGTHS, NOISE, PRODUCTS, SESSIONS, synthesize_sessions


def test_users_keep_their_brand_over_sessions(tmp_path: Path) -> None:
    users, genres, brands = 300, 6, 8
    events = synthesize_sessions(tmp_path / "raw", users, genres, brands, seed=1)
    log = pacsv.read_csv(tmp_path / "raw" / FILE).to_pandas()
    assert len(log) == events
    assert log.time.is_monotonic_increasing
    sessions = log.groupby("session")
    assert set(sessions.size()) == set(range(LENGTHS[0], LENGTHS[1] + 1))
    assert set(sessions.user.nunique()) == {1}
    assert set(log.groupby("user").session.nunique()) <= set(range(SESSIONS[0], SESSIONS[1] + 1))
    leads = sessions.item.first()
    assert set(leads) == set(range(genres))
    products = log[log.item >= genres]
    assert len(products) == len(log) - len(leads)
    place = (products.item - genres) // PRODUCTS
    assert (place // brands == leads[products.session].to_numpy()).all()
    share = (place % brands).groupby(products.user).agg(lambda brand: brand.value_counts(normalize=True).iloc[0])
    expected = 1 - NOISE + NOISE / brands
    assert abs(share.mean() - expected) < 0.05


def test_the_seed_is_all_that_matters(tmp_path: Path) -> None:
    made = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        synthesize_sessions(tmp_path / name, 20, 3, 4, seed)
        made.append(pacsv.read_csv(tmp_path / name / FILE))
    assert made[0] == made[1] != made[2]
