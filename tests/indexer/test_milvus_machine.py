"""What the gallery's machine does with FAISS, it does with Milvus: the same answers."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize

from indexer import milvus_client, milvus_mirror, mirror
from tests.indexer.test_gallery_machine import GalleryMachine

pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")


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
del GalleryMachine
