"""A real Milvus server on loopback, to be killed and started again."""

import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Starting may take long on a busy machine.
PATIENCE_S = 300.0
#: One that does not answer by then is at another port, where it goes without a word when its own is
#: still taken by connections of the one that was killed.
START_S = 75.0


def executable() -> Path:
    """The server's program; skips the test where there is none."""
    named = os.environ.get("BINET_MILVUS_SERVER")
    place = Path(named) if named else ROOT / ".milvus" / "bin" / "milvus-server"
    if not place.exists():
        pytest.skip("no Milvus server: `make milvus`, or name one in BINET_MILVUS_SERVER")
    return place


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class MilvusServer:
    """One server with its data in a folder."""

    def __init__(self, folder: Path) -> None:
        self._program = executable()
        self._folder = folder
        self._port, self._etcd_port, peer_port = free_port(), free_port(), free_port()
        # Its etcd takes port 2380 otherwise, and a second server of the machine dies of that.
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd_port, peer_port))
        self._etcd = folder / "etcd.yaml"
        self._etcd.write_text(
            f"name: default\nlisten-client-urls: {client}\nadvertise-client-urls: {client}\n"
            f"listen-peer-urls: {peer}\ninitial-advertise-peer-urls: {peer}\n"
            f"initial-cluster: default={peer}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"milvus+http://127.0.0.1:{self._port}?timeout=5"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        end, begun = time.monotonic() + PATIENCE_S, time.monotonic()
        while not self._answers():
            if time.monotonic() > end:
                self.kill()
                pytest.fail("Milvus does not start")
            if time.monotonic() > begun + START_S:
                self.kill()
            if self._process is None or self._process.poll() is not None:
                begun = time.monotonic()
                self._process = subprocess.Popen(
                    [
                        *(self._program, "--data", self._folder),
                        *("--proxy-port", str(self._port), "--etcd-port", str(self._etcd_port)),
                    ],
                    env={**os.environ, "ETCD_CONFIG_PATH": str(self._etcd)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            threading.Event().wait(0.5)

    def stop_answering(self) -> None:
        """Let it stand still with its connections open."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """End it and its children at once, as `kill -9` does."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        import grpc
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException

        address = ("127.0.0.1", self._port)
        with (
            suppress(OSError, MilvusException, grpc.RpcError),
            socket.create_connection(address, 1),
        ):
            client = MilvusClient(f"http://127.0.0.1:{self._port}", timeout=3)
            client.list_collections(timeout=3)
            client.close()
            return True
        return False
