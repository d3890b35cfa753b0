"""Runs an index job in a process of its own: `python -m service.index_process URL JOB OWNER`.

The processes that decode import this module as well, and need nothing of what a job needs.
"""

import os
import sys

#: How far it stands back, with the processes that decode for it, behind whoever searches.
NICENESS = 10


def main(gallery_url: str, job_id: int, owner: str) -> int:
    """Run a job that `owner` has taken from the queue; what becomes of it is in its row."""
    from indexer.branch import NetworkBranch
    from indexer.gallery import Gallery
    from indexer.index_command import IndexRequest
    from indexer.indexing import index_sources
    from indexer.jobs import end_badly, read_job
    from indexer.leases import LeaseLostError
    from model.errors import BINetError

    with Gallery.open(gallery_url) as gallery:
        with gallery.database.read() as connection:
            request = IndexRequest(**read_job(connection, job_id).request)
        try:
            options = request.options()
            branch = NetworkBranch.load(request.weights, request.device, request.precision)
            index_sources(
                gallery,
                branch,
                request.sources,
                options,
                request=vars(request),
                job_id=job_id,
                held_by=owner,
            )
        except LeaseLostError:
            pass  # another process has the job
        except BINetError as error:
            # Before the job began in this process; afterwards it has ended already.
            end_badly(gallery.database, job_id, error, owner)
    return 0


if __name__ == "__main__":
    os.nice(NICENESS)
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
