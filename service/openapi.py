"""The OpenAPI document of the service: `python -m service.openapi > docs/openapi.json`."""

import json
import sys
import tempfile

from indexer.gallery import Gallery
from service.app import create_app
from service.settings import Settings


def document() -> str:
    """Return the document as it is committed."""
    with tempfile.TemporaryDirectory() as folder:
        Gallery.open(folder, create=True).close()
        app = create_app(Settings(gallery=folder))
        app.state.service.close()
        return json.dumps(app.openapi(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
