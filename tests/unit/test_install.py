"""The installer: which torch it takes, and what it leaves behind when it fails."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REFUSED = "http://127.0.0.1:9/simple"
spec = importlib.util.spec_from_file_location("install", ROOT / "launch/install.py")
assert spec and spec.loader
install = importlib.util.module_from_spec(spec)
spec.loader.exec_module(install)


@pytest.mark.parametrize(
    ("cpu_builds", "wanted", "cuda", "chosen"),
    [
        ([], None, False, "2.14.*"),
        (["2.13.0+cpu", "2.9.0+cpu"], None, False, "2.13.0+cpu"),
        (["2.13.0+cpu", "2.13.10+cpu", "2.13.9+cpu"], None, False, "2.13.10+cpu"),
        (["2.16.0+cpu"], None, False, "2.14.*"),
        (["2.13.0+cpu"], None, True, "2.14.*"),
        (["2.13.0+cpu"], "2.12", False, "2.12.*"),
        (["2.13.0+cpu"], "2.13.0", False, "2.13.0+cpu"),
        (["2.13.10+cpu"], "2.13.1", False, "2.13.1"),
    ],
)
def test_which_torch(cpu_builds: list[str], wanted: str | None, cuda: bool, chosen: str) -> None:
    assert install.choose_torch(cpu_builds, wanted, cuda=cuda) == chosen


def test_why_an_installer_failed() -> None:
    pip = "WARNING: Retrying\nERROR: Could not find a version (from versions: none)\nERROR: No matching distribution\n"
    assert install.reason(pip) == "Could not find a version (from versions: none); No matching distribution"
    assert install.reason(f"WARNING: NewConnectionError\n{pip}") == install.UNREACHABLE
    assert install.reason("  x\nOSError: disk full\n") == "OSError: disk full"
    assert install.reason("") == "no error message"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the installer needs of a checkout."""
    for name in ("launch", "dist_rec/core"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "dist_rec/__init__.py").touch()
    return tmp_path


def start(checkout: Path, **environment: str) -> subprocess.Popen[str]:
    """The installer, with an index that nobody serves unless told otherwise."""
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": REFUSED, "PIP_RETRIES": "1", "ACCELERATOR": "cpu"}
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "VIRTUAL_ENV"))}
    return subprocess.Popen(
        [checkout / "launch/install.sh"],
        env={**clean, "PYTHON": sys.executable, **pip, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fails(checkout: Path, code: int = 2, **environment: str) -> str:
    """Its one line; nothing of an environment is left."""
    process = start(checkout, **environment)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code and len(err.splitlines()) == 1, err
    assert not (checkout / ".venv").exists()
    return err.strip()


def test_no_network(checkout: Path) -> None:
    assert fails(checkout) == f"error: {install.UNREACHABLE}"


def test_an_index_of_torch_that_is_not_there_is_named_without_its_password(checkout: Path) -> None:
    said = fails(checkout, TORCH_INDEX="http://me:secret@127.0.0.1:9/simple")
    assert said == "error: the index TORCH_INDEX cannot be reached, or has no torch"


def test_no_venv_module(checkout: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules.update(ensurepip=None, virtualenv=None)\n")
    said = fails(checkout, PYTHONPATH=str(hidden), PATH="/usr/bin:/bin")
    assert "has no venv module: " in said and said.endswith("or install uv")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"PYTHON": "no-such-python"}, "error: PYTHON=no-such-python does not run, or is not Python 3.11 to 3.14"),
        ({"ACCELERATOR": "tpu"}, "error: ACCELERATOR=tpu: must be cuda or cpu"),
        ({"TORCH": "1.13"}, "error: TORCH=1.13: must be one of 2.11, 2.12, 2.13, 2.14"),
    ],
)
def test_wrong_settings(checkout: Path, environment: dict[str, str], said: str) -> None:
    assert fails(checkout, **environment) == said


@contextlib.contextmanager
def started(checkout: Path) -> Iterator[subprocess.Popen[str]]:
    """An installer that has made the environment and waits for an index that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/simple"
        process = start(checkout, PIP_INDEX_URL=url, PIP_TIMEOUT="100")
        with server.accept()[0]:
            yield process


def test_an_interrupted_install_leaves_nothing_and_a_killed_one_is_made_anew(checkout: Path) -> None:
    for number, code in ((signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)):
        with started(checkout) as process:
            process.send_signal(number)
            assert process.wait(timeout=20) == code
            assert (checkout / ".venv").exists() == (number == signal.SIGKILL)
    # What the killed one had started ends by itself, and until then the folder is its own.
    while True:
        process = start(checkout)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2 and len(err.splitlines()) == 1, err
        if "another installation into .venv is running or ending" not in err:
            break
        time.sleep(0.5)
    assert err == f"error: {install.UNREACHABLE}\n" and not (checkout / ".venv").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_working_environment_is_never_removed(checkout: Path, number: signal.Signals) -> None:
    subprocess.run([sys.executable, "-m", "venv", checkout / ".venv"], check=True)
    (package,) = (checkout / ".venv").glob("lib/python*/site-packages")
    (package / "mine.py").touch()
    with started(checkout) as process:
        second = start(checkout)
        _, err = second.communicate(timeout=60)
        assert second.returncode == 2 and "another installation into .venv is running or ending" in err
        process.send_signal(number)
        process.wait(timeout=20)
    assert (package / "mine.py").exists() and not (checkout / ".venv/installing").exists()


@pytest.mark.parametrize("kind", ["file", "symlink"])
def test_what_is_no_environment_is_refused(checkout: Path, kind: str) -> None:
    venv = checkout / ".venv"
    if kind == "file":
        venv.touch()
    else:
        venv.symlink_to("nowhere")
    process = start(checkout)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (2, f"error: {venv} is a link or a file, not a folder; remove it\n")


def test_a_python_whose_path_has_a_space(checkout: Path) -> None:
    python = checkout / "my python"
    python.symlink_to(sys.executable)
    assert fails(checkout, PYTHON=str(python)) == f"error: {install.UNREACHABLE}"


def test_an_environment_of_the_users_own_is_not_taken_away(checkout: Path) -> None:
    package = checkout / ".venv/lib/python3.10/site-packages/mine"
    package.mkdir(parents=True)
    process = start(checkout)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and err == f"error: {checkout}/.venv has no Python 3.11 to 3.14; remove it\n"
    assert package.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a folder read-only")
def test_a_read_only_folder(checkout: Path) -> None:
    mount = f"mount --bind {checkout} {checkout} && mount -o remount,bind,ro {checkout} && {checkout}/launch/install.sh"
    unshare = ["unshare", "--mount", "sh", "-c", mount]
    ran = subprocess.run(unshare, capture_output=True, text=True, check=False, timeout=60)
    if "unshare" in ran.stderr or "mount:" in ran.stderr:
        pytest.skip(f"no mounts here: {ran.stderr.strip()}")
    assert (ran.returncode, ran.stderr) == (
        2,
        f"error: {checkout} cannot be written to; copy it to a folder that you can write to\n",
    )
