"""What the gallery's machine does with FAISS, it does with Milvus: the same answers."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize

from indexer import milvus_client, milvus_mirror, mirror
from tests.indexer.milvus_server import MilvusServer
from tests.indexer.test_gallery_machine import GalleryMachine

pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")

#: Runs of the machine over the server; more in `make nightly`.
EXAMPLES = int(os.environ.get("BINET_MILVUS_EXAMPLES", "2"))


class MilvusMachine(GalleryMachine):
    """Over milvus-lite; many parts, few candidates: proofs fail, and SQL is read."""

    def index(self) -> str:
        return f"milvus+file:{self.folder}/vectors.db?partition_days=1"

    @initialize(seed=st.integers(0, 2**32 - 1))
    def begin(self, seed: int) -> None:
        self.patch = pytest.MonkeyPatch()
        for module, name, value in (
            (milvus_client, "SEND_ROWS", 9),
            (milvus_mirror, "_MARGIN", 2),
            (mirror, "_READ_ROWS", 7),
            (mirror, "_ADD_ROWS", 20),
        ):
            self.patch.setattr(module, name, value)
        super().begin(seed)

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()
        super().teardown()


MilvusMachine.TestCase.settings = settings(
    max_examples=3, stateful_step_count=20, deadline=None, derandomize=True
)
TestMilvusMachine = MilvusMachine.TestCase


class ServerMachine(MilvusMachine):
    """Over a server."""

    server: MilvusServer

    def index(self) -> str:
        # Each gallery has collections of its own there.
        return f"{self.server.url}&partition_days=1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    ServerMachine.server = MilvusServer(tmp_path_factory.mktemp("milvus"))
    ServerMachine.server.start()
    yield
    ServerMachine.server.kill()


ServerMachine.TestCase.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=12, deadline=None, derandomize=True
)
TestServerMachine = pytest.mark.usefixtures("server")(ServerMachine.TestCase)
del GalleryMachine
