"""A real surveillance clip for the demo where the user gives none: OpenCV's sample `vtest.avi`.

It is fetched from OpenCV's repository, or from Debian's package of OpenCV's documentation, checked
by its SHA-256 and kept in the user's cache. It is for trying out and research; see docs/data.md.
"""

import hashlib
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

from model.files import cache_folder

NAME = "vtest.avi"
SHA256 = "45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf"
BYTES = 8_131_690
URL = f"https://raw.githubusercontent.com/opencv/opencv/4.x/samples/data/{NAME}"
PACKAGE = "opencv-doc"

#: For the first answer of a server, and for a package of 96 MB.
_TIMEOUT_S = 15
_PACKAGE_TIMEOUT_S = 120


def find_sample(say: Callable[[str], None]) -> Path | None:
    """Return the clip, from the cache or fetched; None where it cannot be had, after saying so."""
    # A camera is called after the folder of its clips.
    path = cache_folder() / "pets09" / NAME
    if path.is_file() and _digest(path.read_bytes()) == SHA256:
        return path
    for name, fetch in (("OpenCV's repository", _download), (f"Debian's {PACKAGE}", _from_debian)):
        say(f"fetching {NAME} from {name} ...")
        try:
            data = fetch()
        except (OSError, subprocess.SubprocessError) as error:
            say(f"  not there: {' '.join(str(error).split())[:120]}")
            continue
        if _digest(data) != SHA256:
            say("  it is another file than expected: not used")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path
    return None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _download() -> bytes:
    with urlopen(URL, timeout=_TIMEOUT_S) as answer:  # the URL is a constant
        data: bytes = answer.read(BYTES + 1)
        return data


def _from_debian() -> bytes:
    with tempfile.TemporaryDirectory() as folder:

        def run(*command: str) -> None:
            subprocess.run(  # noqa: S603
                command, cwd=folder, check=True, capture_output=True, timeout=_PACKAGE_TIMEOUT_S
            )

        run("apt-get", "download", PACKAGE)
        (package,) = Path(folder).glob("*.deb")
        run("dpkg-deb", "--extract", package.name, "files")
        found = next(Path(folder, "files").rglob(f"{NAME}*"), None)
        if found is None:
            raise FileNotFoundError(f"{NAME} is not in the package")
        if found.suffix == ".gz":
            import gzip

            return gzip.decompress(found.read_bytes())
        return found.read_bytes()
