"""A service in a process of its own, with an encoder that needs no network.

Arguments: the gallery, the file that tells the port, and seconds after which a batch hangs.

Searches for the picture that is all of one colour, 9, wait until a file beside the port's is there:
so a test can end the service while it answers.
"""

import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from indexer.decode_protocol import Pixels
from model.detections import FloatArray
from service.app import create_app
from service.serving import run
from service.settings import Settings
from tests.service.conftest import PATIENCE_S, FakeEncoder

HELD = 9


class SlowEncoder(FakeEncoder):
    """Waits for the test with one picture."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def embed_crops(self, crops: Sequence[Pixels]) -> FloatArray:
        if any((crop == HELD).all() for crop in crops):
            (self._folder / "entered").touch()
            waiting = threading.Event()
            for _ in range(int(PATIENCE_S / 0.02)):
                if (self._folder / "go-on").exists():
                    break
                waiting.wait(0.02)
        return super().embed_crops(crops)


def main(gallery: str, port_file: Path, hang_s: float) -> None:
    settings = Settings(
        gallery=gallery, allow_local=True, rate="1000000/minute", hang_s=hang_s, follow_s=0.05
    )
    app = create_app(settings, lambda: SlowEncoder(port_file.parent))
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    port_file.with_suffix(".new").write_text(str(listening.getsockname()[1]))
    port_file.with_suffix(".new").replace(port_file)
    if reason := run(app, [listening], log_level="error"):
        raise SystemExit(reason)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
