"""`dist-rec doctor`: checks that torch, torchrec, FBGEMM and CUDA match, and that two processes can train together."""

import importlib.metadata
import importlib.util
import json
import platform
import shlex
import shutil
import subprocess
import sys
from typing import NamedTuple

import typer

from dist_rec.cli.options import AsJson
from dist_rec.core import versions
from dist_rec.core.versions import minor

SELF_TEST_SECONDS = 120


class Finding(NamedTuple):
    """One line of the report, and the fix if the check has failed."""

    good: bool
    what: str
    fix: str = ""


def doctor(as_json: AsJson = False) -> None:
    """Check the installation: matching versions, the GPUs, and a test training on two processes; print fixes.

    Exit code 1 if a check fails.
    """
    fbgemm = {name: version for name in ("fbgemm-gpu", "fbgemm-gpu-cpu") if (version := _version(name))}
    findings = [_python(), *check_versions(_version("torch"), _version("torchrec"), fbgemm)]
    for check in (_imports, _cuda, _self_test):  # Each needs the checks before it to pass.
        if all(finding.good for finding in findings):
            findings.append(check())
    good = all(finding.good for finding in findings)
    for finding in findings:
        fix = f"\n     fix: {finding.fix}" if finding.fix else ""
        typer.echo(f"{'ok  ' if finding.good else 'BAD '} {finding.what}{fix}")
    if as_json:
        typer.echo(json.dumps({"good": good, "findings": [finding._asdict() for finding in findings]}))
    if not good:
        raise typer.Exit(1)


def _python() -> Finding:
    running, known = platform.python_version(), f"{versions.PYTHON[0]} to {versions.PYTHON[-1]}"
    if minor(running) in versions.PYTHON:
        return Finding(True, f"Python {running}")
    return Finding(False, f"Python {running}", f"install Python {known}, for which FBGEMM has wheels")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_versions(torch: str | None, torchrec: str | None, fbgemm: dict[str, str]) -> list[Finding]:
    """Findings on versions; None stands for a package that is not installed.

    `fbgemm` holds the versions of the installed builds of FBGEMM, by the name of the package.
    """
    if torch is None:
        return [Finding(False, "torch is not installed", "launch/install.sh")]
    if minor(torch) not in versions.TORCH:
        known = f"{versions.TORCH[0]} to {versions.TORCH[-1]}"
        fitting = [one for one in versions.TORCH if torchrec and versions.matched(one) == minor(torchrec)]
        wanted_torch = f"'torch=={(fitting or versions.TORCH)[-1]}.*'"
        fix = f"{_pip('install', wanted_torch)}, then dist-rec doctor again"
        return [Finding(False, f"torch {torch} is not a tested version ({known})", fix)]
    wanted = versions.matched(torch)
    if torchrec is None or minor(torchrec) != wanted:
        fix = _pip("install", "--no-deps", f"'torchrec=={wanted}.*'")
        found = Finding(False, f"torchrec {torchrec or 'is missing'}; torch {torch} needs {wanted}", fix)
    else:
        found = Finding(True, f"torchrec {torchrec}")
    return [Finding(True, f"torch {torch}"), found, _fbgemm(fbgemm, wanted, torch.endswith("+cpu"))]


def _fbgemm(installed: dict[str, str], wanted: str, cpu_torch: bool) -> Finding:
    if len(installed) > 1:
        fix = f"{_pip('uninstall', *installed)}, then launch/install.sh"
        return Finding(False, f"{' and '.join(installed)} are both installed and overwrite each other", fix)
    if not installed:
        return Finding(False, "FBGEMM is not installed", "launch/install.sh")
    ((name, version),) = installed.items()
    if minor(version) != wanted:
        return Finding(False, f"{name} {version}; this torch needs {wanted}", _pip("install", f"'{name}=={wanted}.*'"))
    if name == "fbgemm-gpu" and cpu_torch:
        cpu_build = f"'fbgemm-gpu-cpu=={wanted}.*'"
        fix = f"{_pip('uninstall', name)}, then {_pip('install', cpu_build)}"
        return Finding(False, f"{name} is the CUDA build of FBGEMM, but torch is a CPU build", fix)
    return Finding(True, f"{name} {version}")


def _pip(action: str, *packages: str) -> str:
    """A command that installs into, or uninstalls from, the environment of this Python."""
    python, words = shlex.quote(sys.executable), " ".join(packages)
    if importlib.util.find_spec("pip"):
        return f"{python} -m pip {action} {words}"
    return f"uv pip {action} --python {python} {words}"


def _cuda() -> Finding:
    import torch

    if not torch.cuda.is_available():
        if _has_gpus():
            built = torch.version.cuda
            fix = "this torch is a CPU build; launch/install.sh" if built is None else "update the NVIDIA driver"
            return Finding(False, f"the machine has GPUs, but torch {torch.__version__} does not see them", fix)
        return Finding(True, "no GPU: training runs on the CPU with Gloo")
    nccl = ".".join(map(str, torch.cuda.nccl.version()))
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if _version("fbgemm-gpu") is None:
        return Finding(False, f"{names[0]}, but FBGEMM is the CPU build", "launch/install.sh")
    return Finding(True, f"CUDA {torch.version.cuda}, NCCL {nccl}, {len(names)} x {names[0]}")


def _has_gpus() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    return subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0


def _imports() -> Finding:
    cumsum = "torch.ops.fbgemm.asynchronous_complete_cumsum(torch.tensor([1, 2]))"
    code = f"import torch, torchrec, fbgemm_gpu; print({cumsum}.tolist())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if run.returncode == 0 and run.stdout.strip().endswith("[0, 1, 3]"):
        return Finding(True, "FBGEMM's operators load and run")
    last = (run.stderr.strip().splitlines() or ["no output"])[-1]
    fix = f"{_pip('uninstall', 'fbgemm-gpu', 'fbgemm-gpu-cpu')}, then launch/install.sh"
    return Finding(False, f"FBGEMM does not load: {last}", fix)


def self_test() -> None:
    """Train a tiny model for a few steps; the doctor runs this on two processes."""
    from dist_rec.train.self_test import train_tiny_model

    train_tiny_model()


def _self_test() -> Finding:
    what = "two processes train a tiny model on sharded tables"
    command = [sys.executable, "-m", "dist_rec.cli.launch", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "dist_rec.cli.main", "self-test"]
    fix = "if the processes cannot connect, set GLOO_SOCKET_IFNAME (and NCCL_SOCKET_IFNAME) to the right interface"
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=SELF_TEST_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Finding(False, f"{what}: no end after {SELF_TEST_SECONDS} s", fix)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]
        return Finding(False, f"{what}: {last}", f"{fix}; for all output run {shlex.join(command)}")
    return Finding(True, what)
