"""A head from outside of the package: installed by pip, found by its dotted name, trained by the launcher."""

import sys
from pathlib import Path

import pytest

from tests.integration.conftest import LOCAL, ROOT, Criteo, run

EXAMPLE = ROOT / "examples/field_weighted_fm"


@pytest.fixture
def installed(tmp_path: Path) -> str:
    """Where pip put the example."""
    source, target = tmp_path / "source", tmp_path / "site"
    run("cp", "-r", EXAMPLE, source)  # a build leaves files beside its source
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", target)
    run(sys.executable, "-m", "pip", "install", *options, source)
    return f"{target}:{ROOT}"


def test_its_own_test(installed: str) -> None:
    run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLE / "tests", PYTHONPATH=installed)


def test_it_trains_on_two_processes(installed: str, tmp_path: Path, criteo: Criteo) -> None:
    settings = (f"data.path={criteo.data}", "head.dim=4", "train.batch=256", "--run-dir", tmp_path / "run", "--json")
    ended = run(LOCAL, "2", EXAMPLE / "fwfm_criteo.toml", *settings, PYTHONPATH=installed)
    assert ended.json["test"]["auc"] > 0.6
