"""From a file of events to baselines of sessions, by the commands that users run."""

from pathlib import Path

import pytest

from tests.integration.conftest import dist_rec


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sessions that go round in circles of five items, and now and then to one that everybody has."""
    folder = tmp_path_factory.mktemp("sessions")
    lines = ["session_id,item_id,timestamp"]
    for session in range(120):
        circle, start = session % 8, session // 8
        walk = [5 * circle + (start + place) % 5 for place in range(4)]
        lines += [f"{session},{item},{100 * session + place}" for place, item in enumerate([99, *walk])]
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    words = ("--split", "time", "--test-days", "0.02", "--out", folder / "data")
    dist_rec("prepare", "sessions", folder / "events.csv", *words)
    return folder / "data"


def test_what_a_session_says_is_worth_something(data: Path) -> None:
    scores = {name: dist_rec("baseline", name, data, "--json").json for name in ("pop", "s-pop", "item-knn", "markov")}
    assert len({frozenset(found) for found in scores.values()}) == 1, "the same metrics"
    assert {"recall@20", "mrr@20", "recall@5", "mrr@5"} < scores["pop"].keys()
    assert scores["s-pop"]["baseline"] == "s_pop" and scores["s-pop"]["rows"] == scores["pop"]["rows"]
    assert scores["item-knn"]["recall@5"] > scores["pop"]["recall@5"] + 0.2
    assert scores["markov"]["mrr@5"] > scores["item-knn"]["mrr@5"] + 0.1
    shown = dist_rec("baseline", "markov", data, "--smoothing", "1", "--cutoff", "3", "--split", "train").out
    assert "recall@3 " in shown and "recall@5 " not in shown
