"""Which versions go together, and that every place which says so says the same."""

import re
import tomllib
from pathlib import Path

import pytest

from dist_rec.cli.doctor import check_versions
from dist_rec.core import versions

ROOT = Path(__file__).parents[2]


def test_four_places_name_the_same_pythons() -> None:
    first, last = versions.PYTHON[0], versions.PYTHON[-1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [line.split(" :: ")[-1] for line in project["classifiers"] if re.search(r"Python :: 3\.\d", line)]
    assert named == list(versions.PYTHON) and project["requires-python"] == f">={first}"
    script = (ROOT / "launch/install.sh").read_text()
    assert set(re.findall(r"3\.\d+ to 3\.\d+", script)) == {f"{first} to {last}"}
    assert f"({first.replace('.', ', ')}) <= sys.version_info < (3, {int(last.split('.')[1]) + 1})" in script
    assert set(re.findall(r"python(3\.\d+)", script.split("set -- python3 ")[1])) == set(versions.PYTHON)
    assert f"Python {first} to {last}" in (ROOT / "README.md").read_text()


def test_three_places_name_the_same_torches() -> None:
    first, last = versions.TORCH[0], versions.TORCH[-1]
    assert f"torch {first} to {last}" in (ROOT / "README.md").read_text()
    assert f"torch version, {first} to {last} " in (ROOT / "launch/install.sh").read_text()
    assert f'"torch>={first}"' in (ROOT / "pyproject.toml").read_text()


def test_torchrec_and_fbgemm_follow_from_torch() -> None:
    assert [versions.matched(torch) for torch in versions.TORCH] == ["1.6", "1.7", "1.8", "1.9"]
    assert versions.minor("2.13.0+cpu") == "2.13"


@pytest.mark.parametrize(
    ("torch", "torchrec", "fbgemm", "mend"),
    [
        (None, "1.8.0", {}, "launch/install.sh"),
        ("2.15.0", "1.9.2", {"fbgemm-gpu": "1.9.0"}, "install 'torch==2.14.*'"),
        ("2.10.0", None, {}, "install 'torch==2.14.*'"),
        ("2.10.0", "1.5.0", {}, "install 'torch==2.14.*'"),
        ("2.12.1", "1.8.0", {"fbgemm-gpu-cpu": "1.7.0"}, "install --no-deps 'torchrec==1.7.*'"),
        ("2.14.1", "1.9.2", {"fbgemm-gpu-cpu": "1.8.0"}, "install 'fbgemm-gpu-cpu==1.9.*'"),
        ("2.14.1+cu130", "1.9.2", {"fbgemm-gpu": "1.9.0", "fbgemm-gpu-cpu": "1.9.0"}, "uninstall fbgemm-gpu fbgemm"),
        ("2.13.0+cpu", "1.8.0", {}, "launch/install.sh"),
        ("2.13.0+cpu", "1.8.0", {"fbgemm-gpu": "1.8.0"}, "install 'fbgemm-gpu-cpu==1.8.*'"),
    ],
)
def test_the_doctor_names_the_mend(torch: str | None, torchrec: str | None, fbgemm: dict[str, str], mend: str) -> None:
    (bad,) = (finding for finding in check_versions(torch, torchrec, fbgemm) if not finding.good)
    assert mend in bad.fix


def test_the_doctor_finds_matching_versions_well() -> None:
    for torch in versions.TORCH:
        matched = versions.matched(torch)
        assert all(finding.good for finding in check_versions(torch, matched, {"fbgemm-gpu-cpu": matched}))
