"""Runs one queued index job, in a process of its own: `python -m service.index_process URL JOB`."""

import sys

from indexer.branch import NetworkBranch
from indexer.gallery import Gallery
from indexer.index_command import IndexRequest
from indexer.indexing import index_sources
from indexer.jobs import end_badly, read_job
from model.errors import BINetError


def main(gallery_url: str, job_id: int) -> int:
    """Run the job; what becomes of it is in its row."""
    with Gallery.open(gallery_url) as gallery:
        with gallery.database.read() as connection:
            request = IndexRequest(**read_job(connection, job_id).request)
        try:
            options = request.options()
            branch = NetworkBranch.load(request.weights, request.device, request.precision)
            index_sources(
                gallery, branch, request.sources, options, request=vars(request), job_id=job_id
            )
        except BINetError as error:
            end_badly(gallery.database, job_id, error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
