"""The rules of the tree: lint, types, and imports that only go down, in no circle."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "dist_rec", "tests", "benchmarks"],
        ["ruff", "format", "--check", "dist_rec", "tests", "benchmarks"],
        ["mypy"],
        ["lint-imports", "--no-cache"],
    ],
    ids=["lint", "format", "types", "imports"],
)
def test_rules(command: list[str]) -> None:
    program = Path(sys.executable).parent / command[0]
    run = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_heads_bring_no_sharding_and_no_files_along() -> None:
    code = (
        "import importlib, pkgutil, sys, dist_rec.heads as heads\n"
        "for module in pkgutil.iter_modules(heads.__path__):\n"
        "    importlib.import_module(f'dist_rec.heads.{module.name}')\n"
        "    print(module.name, *{'torchrec', 'fbgemm_gpu', 'pyarrow'} & sys.modules.keys())"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert len(lines) > 20 and all(len(line.split()) == 1 for line in lines), run.stdout
