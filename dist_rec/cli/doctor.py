"""`dist-rec doctor`: do torch, torchrec, FBGEMM and CUDA fit together, and can two processes talk?"""

import importlib.metadata
import json
import platform
import shlex
import shutil
import subprocess
import sys
from typing import Annotated, NamedTuple

import typer

# torch minor version → the minor version of torchrec and FBGEMM that were built against it.
MATCHED = {"2.11": "1.6", "2.12": "1.7", "2.13": "1.8"}
SELF_TEST_SECONDS = 120


class Finding(NamedTuple):
    """One line of the report."""

    good: bool
    what: str
    fix: str = ""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, last.")] = False) -> None:
    """Check the installation: versions that must match, the GPUs, a self-test on two processes; say what to mend.

    Exit code 1 if something is wrong.
    """
    findings = [_python(), *_versions()]
    for check in (_imports, _cuda, _self_test):  # Each needs what comes before it.
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
    good = sys.version_info >= (3, 11)
    return Finding(good, f"Python {platform.python_version()}", "" if good else "install Python 3.11 or 3.12")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _minor(version: str) -> str:
    return ".".join(version.split("+")[0].split(".")[:2])


def _versions() -> list[Finding]:
    torch, torchrec = _version("torch"), _version("torchrec")
    fbgemm = {name: _version(name) for name in ("fbgemm-gpu", "fbgemm-gpu-cpu")}
    if torch is None:
        return [Finding(False, "torch is not installed", "launch/install.sh")]
    wanted = MATCHED.get(_minor(torch))
    if wanted is None:
        known = ", ".join(MATCHED)
        return [Finding(False, f"torch {torch} is not one that this was tested with ({known})", "launch/install.sh")]
    found = [Finding(True, f"torch {torch}")]
    if torchrec is None or _minor(torchrec) != wanted:
        fix = f"pip install --no-deps 'torchrec=={wanted}.*'"
        found.append(Finding(False, f"torchrec {torchrec or 'is missing'}; torch {torch} wants {wanted}", fix))
    else:
        found.append(Finding(True, f"torchrec {torchrec}"))
    return [*found, _fbgemm(fbgemm["fbgemm-gpu"], fbgemm["fbgemm-gpu-cpu"], wanted)]


def _fbgemm(cuda: str | None, cpu: str | None, wanted: str) -> Finding:
    if cuda and cpu:
        fix = "pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu, then launch/install.sh"
        return Finding(False, "fbgemm-gpu and fbgemm-gpu-cpu are both installed and overwrite each other", fix)
    name, version = ("fbgemm-gpu", cuda) if cuda else ("fbgemm-gpu-cpu", cpu)
    if version is None:
        return Finding(False, "FBGEMM is not installed", "launch/install.sh")
    if _minor(version) != wanted:
        return Finding(False, f"{name} {version}; this torch wants {wanted}", f"pip install '{name}=={wanted}.*'")
    return Finding(True, f"{name} {version}")


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
    return Finding(
        False, f"FBGEMM does not load: {last}", "pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu; launch/install.sh"
    )


def self_test() -> None:
    """A few training steps of a tiny model; the doctor runs it on two processes."""
    from dist_rec.train.self_test import train_tiny_model

    train_tiny_model()


def _self_test() -> Finding:
    what = "two processes train a tiny model on sharded tables"
    command = [sys.executable, "-m", "dist_rec.cli.launch", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "dist_rec.cli.main", "self-test"]
    fix = "do the processes see each other? set GLOO_SOCKET_IFNAME (and NCCL_SOCKET_IFNAME) to the right interface"
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=SELF_TEST_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Finding(False, f"{what}: no end after {SELF_TEST_SECONDS} s", fix)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]
        return Finding(False, f"{what}: {last}", f"{fix}; all that it prints: {shlex.join(command)}")
    return Finding(True, what)
