"""Several nodes, each with its own launcher; here they are all on this machine."""

import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.conftest import CONFIG, ROOT, SMALL, Criteo, Ended, environment, metrics, run

NODE = ROOT / "launch/node.sh"


def start_nodes(data: Path, folder: Path, *words: str) -> list[subprocess.Popen]:
    """Two nodes of one process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    settings = (f"data.path={data}", *SMALL, "train.precision=fp32", "train.log_every=5", *words)
    command = [str(word) for word in (NODE, endpoint, 2, 1, CONFIG, *settings, "--run-dir", folder, "--json")]
    env = environment(NODE_ADDRESS="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": env}
    return [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]


def end(nodes: list[subprocess.Popen], code: int) -> list[Ended]:
    try:
        outputs = [node.communicate(timeout=100) for node in nodes]
    finally:
        for node in nodes:
            node.terminate()
    ended = [Ended(node.args, node.returncode, *output) for node, output in zip(nodes, outputs, strict=True)]
    assert [node.code for node in ended] == [code, code], "\n\n".join(map(str, ended))
    return ended


def test_two_nodes_train_as_two_processes_of_one(criteo: Criteo, trained: tuple[Path, Ended], tmp_path: Path) -> None:
    ended = end(start_nodes(criteo.data, tmp_path / "run"), 0)
    (spoken,) = [node for node in ended if node.out]
    expected = [line["loss"] for line in metrics(trained[0], "train")]
    assert [line["loss"] for line in metrics(tmp_path / "run", "train")] == pytest.approx(expected, rel=0, abs=1e-4)
    assert spoken.json["test"]["auc"] == pytest.approx(trained[1].json["test"]["auc"], rel=0, abs=0.0015)


@pytest.mark.slow
def test_a_warning_to_one_node_lets_all_save_and_end(criteo: Criteo, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    nodes = start_nodes(criteo.data, folder, "train.epochs=1000")
    deadline = time.monotonic() + 60
    while not (folder / "metrics.jsonl").exists() or not metrics(folder, "train"):
        assert time.monotonic() < deadline and not any(node.poll() for node in nodes), list(map(str, end(nodes, 0)))
        time.sleep(0.05)
    nodes[1].send_signal(signal.SIGUSR1)
    for node in end(nodes, 75):
        assert node.err.splitlines()[-1].startswith("stopped after step "), node
    step = max(int(path.name.removeprefix("step_")) for path in (folder / "checkpoints").glob("step_*"))
    resumed = run(NODE, "127.0.0.1:0", "1", "1", CONFIG, f"data.path={criteo.data}", *SMALL, "train.precision=fp32",
                  f"train.steps={step + 1}", "--run-dir", folder, "--resume", "--allow-changes", "--json")  # fmt: skip
    assert resumed.json["train"]["steps"] == 1
