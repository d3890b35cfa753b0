"""The process of the service: it ends without losing anybody, and outlives hostile requests."""

import gc
import io
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from service.serving import settle
from tests.service.conftest import PATIENCE_S, serving, until
from tests.service.fake_server import HELD
from tests.service.test_search import png

#: Hostile requests; more in `make nightly`.
HOSTILE = int(os.environ.get("BINET_HOSTILE", "1000"))
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def running(
    folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A service's process and its address; its parameter: when the encoder counts as hanging."""
    port = tmp_path / "port"
    hang_s = str(getattr(request, "param", PATIENCE_S))
    command = [sys.executable, "-m", "tests.service.fake_server", str(folder), str(port), hang_s]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    try:
        until(lambda: port.exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()[1]
        address = f"http://127.0.0.1:{port.read_text()}"

        def ready() -> bool:
            with suppress(httpx.TransportError):
                return httpx.get(f"{address}/readyz").status_code == 200
            return False

        until(ready)
        yield process, address
    finally:
        process.kill()
        process.communicate()


def test_what_is_loaded_is_not_looked_through_again(folder: Path) -> None:
    with serving(folder) as (_, service):
        assert service.settled.wait(PATIENCE_S)
        before = gc.get_freeze_count()
        settle()
        try:
            assert gc.get_freeze_count() > before + 10_000
            assert len(gc.get_objects()) < 10_000
        finally:
            gc.unfreeze()


def held() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((20, 10, 3), HELD, np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_sigterm_loses_no_accepted_request(
    running: tuple[subprocess.Popen[bytes], str], tmp_path: Path
) -> None:
    process, address = running
    answers: list[httpx.Response] = []

    def ask(data: bytes) -> None:
        files = {"crop": data}
        answers.append(httpx.post(f"{address}/v1/search", files=files, timeout=PATIENCE_S))

    asking = [threading.Thread(target=ask, args=(held(),))]
    asking[0].start()
    until((tmp_path / "entered").exists)
    asking += [threading.Thread(target=ask, args=(png(seed),)) for seed in range(8)]
    for thread in asking[1:]:
        thread.start()

    def waiting() -> float:
        text = httpx.get(f"{address}/metrics").text
        line = next(li for li in text.splitlines() if li.startswith("binet_queue_depth "))
        return float(line.split()[1])

    until(lambda: waiting() == 8)
    process.send_signal(signal.SIGTERM)

    def closed() -> bool:
        with suppress(httpx.TransportError):
            httpx.get(f"{address}/livez", timeout=1)
            return False
        return True

    until(closed)
    (tmp_path / "go-on").touch()
    for thread in asking:
        thread.join(PATIENCE_S)
    assert [answer.status_code for answer in answers] == [200] * 9
    assert all(answer.json()["audit_id"] for answer in answers)
    assert process.wait(PATIENCE_S) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("running", [0.2], indirect=True)
def test_a_service_whose_encoder_hangs_tells_and_ends(
    running: tuple[subprocess.Popen[bytes], str],
) -> None:
    process, address = running
    answer = httpx.post(f"{address}/v1/search", files={"crop": held()}, timeout=PATIENCE_S)
    assert answer.status_code == 503
    assert process.wait(PATIENCE_S) == 1
    assert process.stderr is not None
    assert b"a batch takes more than 0.2 s" in process.stderr.read()


def hostile(rng: random.Random) -> bytes:
    """Return one request that nobody should send."""
    paths = ["/v1/search", "/v1/searches", "/v1/jobs", "/v1/frames/1/image", "/", "/v1/cases/1"]
    path = rng.choice([*paths, "/../../etc/passwd", "/v1/boxes/%00/crop", "/" + "a" * 3000])
    method = rng.choice(["GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS", "BREW"])
    kind = rng.choice(
        ["multipart/form-data", "multipart/form-data; boundary=x", "application/json", "text/\xff"]
    )
    picture = bytearray(png(rng.randrange(5)))
    for _ in range(rng.randrange(20)):
        picture[rng.randrange(len(picture))] = rng.randrange(256)
    part = b'--x\r\nContent-Disposition: form-data; name="crop"; filename="../../x"\r\n\r\n'
    body = rng.choice(
        [
            b"",
            bytes(picture),
            part + bytes(picture) + b"\r\n--x--\r\n",
            part + bytes(picture),
            part * 2000 + b"--x--",
            b'{"source": "../../etc", "camera": ' + b"[" * 500,
            rng.randbytes(500),
        ]
    )
    length = rng.choice([len(body), len(body), len(body), len(body) // 2, 10**12, -1])
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
    head += f"Content-Length: {length}\r\n" + rng.choice(["", "Connection: close\r\n"])
    return head.encode("latin-1") + b"\r\n" + body


def test_hostile_requests_leave_nothing_behind(
    running: tuple[subprocess.Popen[bytes], str],
) -> None:
    process, address = running
    port = int(address.rpartition(":")[2])
    rng = random.Random(0)

    def threads_and_files() -> tuple[int, int]:
        place = Path("/proc") / str(process.pid)
        return len(list((place / "task").iterdir())), len(list((place / "fd").iterdir()))

    def clean() -> None:
        answer = httpx.post(f"{address}/v1/search", files={"crop": png(1)}, timeout=PATIENCE_S)
        assert answer.status_code == 200

    def storm(count: int) -> None:
        for _ in range(count):
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as one,
            ):
                one.sendall(hostile(rng))
                one.shutdown(socket.SHUT_WR)
                while one.recv(65_536):
                    pass

    # The pools of threads are full afterwards: what is counted later would be a leak.
    storm(100)
    together = [threading.Thread(target=clean) for _ in range(60)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join(PATIENCE_S)
    threads, files = threads_and_files()
    storm(HOSTILE)
    clean()
    assert process.poll() is None
    # A leak would be of the storm's size. Pools breathe a little, and SQLite closes files late,
    # while others of the process hold a lock on them.
    until(lambda: threads_and_files()[0] <= threads + 5)
    until(lambda: threads_and_files()[1] <= files + 20)
