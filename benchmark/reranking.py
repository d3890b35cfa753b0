"""Context bipartite graph matching: who walks with the person is a hint (Li and Miao, AAAI 2021).

The people of the query's scene are matched with those of a gallery scene. Where the query is
matched, the similarity becomes the largest single one of the matching.
"""

from dataclasses import dataclass

import numpy as np

from benchmark.people import Int64, People
from model.detections import FloatArray
from training.datasets.protocol import RetrievalProtocol


@dataclass(frozen=True, eq=False)
class Context:
    """The people of each query's scene: the query first, then the detections, best score first.

    Attributes
    ----------
    ptr
        int64 [Q + 1].
    embeddings
        float32 [N, E].
    """

    ptr: Int64
    embeddings: FloatArray

    def of(self, query: int) -> FloatArray:
        """Return the people around a query: [n, E]."""
        return self.embeddings[int(self.ptr[query]) : int(self.ptr[query + 1])]


def rerank(
    similarity: FloatArray,
    rows: Int64,
    people: People,
    embeddings: FloatArray,
    friends: FloatArray,
    most: int,
) -> FloatArray:
    """Return a query's similarities with those of its likeliest scenes revised.

    Parameters
    ----------
    similarity
        To everybody [D].
    rows
        Whom the gallery holds.
    embeddings
        Of everybody [D, E], as they are compared.
    friends
        The query and the people around it [k2, E].
    most
        k1: scenes of so many most similar detections are revised.
    """
    from scipy.optimize import linear_sum_assignment

    likely = rows[np.argsort(-similarity[rows], kind="stable")[:most]]
    revised = similarity.copy()
    for scene in np.unique(np.searchsorted(people.ptr, likely, side="right") - 1):
        here = slice(int(people.ptr[scene]), int(people.ptr[scene + 1]))
        edges = friends @ embeddings[here].T
        # As many pairs as there can be, even where an edge is negative: as SeqNet has it.
        matched, to = linear_sum_assignment(edges, maximize=True)
        of_query = matched == 0
        if of_query.any():
            revised[here.start + to[of_query]] = edges[matched, to].max()
    return revised


def query_context(protocol: RetrievalProtocol, people: People, queries: FloatArray) -> Context:
    """For CBGM: each query, then the people found in its scene, best score first."""
    place = {name: i for i, name in enumerate(protocol.scenes)}
    ptr, rows = [0], []
    for query, embedding in zip(protocol.queries, queries, strict=True):
        scene = place[query.scene]
        here = slice(int(people.ptr[scene]), int(people.ptr[scene + 1]))
        order = np.argsort(-people.scores[here], kind="stable")
        rows.append(np.concatenate([embedding[None], people.embeddings[here][order]]))
        ptr.append(ptr[-1] + len(rows[-1]))
    embeddings = np.concatenate(rows) if rows else queries
    return Context(np.array(ptr, np.int64), embeddings)
