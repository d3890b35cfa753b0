"""The search metric of the literature, exact and fast.

One matrix product gives all similarities of a block of queries; of the ranking only the places of
the positives are worked out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmark.matching import (
    Candidates,
    Duplicates,
    Truth,
    find_candidates,
    junk_rows,
    read_truth,
)
from benchmark.metrics import average_precision
from benchmark.people import Int64, People
from benchmark.reranking import Context, rerank
from model.detections import FloatArray
from training.datasets.protocol import ListedGallery, RetrievalProtocol

#: Similarities of so many queries are held at once: 40 MB for 40,000 detections.
BLOCK = 256
#: Rank of the first positive of a query that has none.
NEVER = int(np.iinfo(np.int64).max)


@dataclass(frozen=True)
class SearchRules:
    """What a number depends on besides the network; in every report.

    Attributes
    ----------
    det_threshold
        Detections with a lower score are left out. Their true boxes still count.
    duplicates
        See `benchmark.matching.Duplicates`.
    scaled
        Similarities are multiplied by the detection's score (class-weighted similarity).
    cbgm
        k1 and k2 of context bipartite graph matching; None is off.
    """

    det_threshold: float = 0.5
    duplicates: Duplicates = "oim"
    scaled: bool = False
    cbgm: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class SearchResult:
    """One row for each query.

    Attributes
    ----------
    aps
        float64 [Q]: average precision times the share of true boxes that were found.
    ranks
        int64 [Q]: place of the first positive among all detections, from 0; or `NEVER`.
    true_boxes
        int64 [Q]. A query without any is excluded from all means.
    """

    aps: npt.NDArray[np.float64]
    ranks: Int64
    true_boxes: Int64

    @property
    def included(self) -> npt.NDArray[np.bool_]:
        """Which queries count: those whose person is in the gallery."""
        return self.true_boxes > 0

    @property
    def mean_ap(self) -> float:
        """Mean over the queries that count; 0 without any."""
        return float(self.aps[self.included].mean()) if self.included.any() else 0.0

    def top(self, k: int) -> float:
        """Share of the queries that count with a positive among the k most similar detections."""
        return float((self.ranks[self.included] < k).mean()) if self.included.any() else 0.0


@dataclass(frozen=True, eq=False)
class Ranking:
    """What one query finds, in the order of its gallery; not sorted.

    Attributes
    ----------
    query
        Its number.
    images
        int32 [M], scenes of the gallery; a scene may come twice.
    rows
        int64 [N], detections of the gallery, rows of `People`.
    similarity
        float32 [N].
    positives
        int64 [P], the detections that are the person, rows of `People`; at most one for each true
        box.
    positive_similarity
        float32 [P].
    rank
        Place of the first positive, from 0; `NEVER` without any.
    """

    query: int
    images: npt.NDArray[np.int32]
    rows: Int64
    similarity: FloatArray
    positives: Int64
    positive_similarity: FloatArray
    rank: int


def evaluate_search(
    protocol: RetrievalProtocol,
    people: People,
    queries: FloatArray,
    rules: SearchRules = SearchRules(),
    context: Context | None = None,
    similarity_of: Callable[[int], FloatArray] | None = None,
) -> SearchResult:
    """Score every query of a protocol; parameters and errors are those of `rank_queries`."""
    truth = read_truth(protocol, rules.duplicates)
    result = SearchResult(
        np.zeros(len(protocol)), np.full(len(protocol), NEVER), np.diff(truth.ptr)
    )
    for ranking in rank_queries(protocol, people, queries, rules, context, similarity_of):
        if len(ranking.positives):
            share = len(ranking.positives) / result.true_boxes[ranking.query]
            precision = average_precision(ranking.positive_similarity, ranking.similarity)
            result.aps[ranking.query] = precision * share
            result.ranks[ranking.query] = ranking.rank
    return result


def rank_queries(
    protocol: RetrievalProtocol,
    people: People,
    queries: FloatArray,
    rules: SearchRules = SearchRules(),
    context: Context | None = None,
    similarity_of: Callable[[int], FloatArray] | None = None,
) -> Iterator[Ranking]:
    """Rank everybody in the gallery of each query, query by query.

    Parameters
    ----------
    protocol
        Who is searched, and where.
    people
        What was found in `protocol.scenes`, in that order.
    queries
        Embeddings [Q, E] of the queries at their true boxes.
    context
        The people around the queries, for CBGM.
    similarity_of
        Gives a query's similarities to `people.above(rules.det_threshold)` [D] in place of the
        product of their embeddings; -inf for who is not found.

    Yields
    ------
    One `Ranking` for each query. Its rows are those of `people.above(rules.det_threshold)`.

    Raises
    ------
    ValueError
        When the arrays do not fit the protocol, or CBGM has no context.
    """
    if len(people.counts) != len(protocol.scenes) or len(queries) != len(protocol):
        raise ValueError(
            f"{protocol.name}: {len(protocol.scenes)} scenes and {len(protocol)} queries, but "
            f"people of {len(people.counts)} scenes and {len(queries)} query embeddings"
        )
    if rules.cbgm and context is None:
        raise ValueError("CBGM needs the people around each query")
    people = people.above(rules.det_threshold)
    embeddings = people.embeddings
    if rules.scaled:
        embeddings = embeddings * people.scores[:, None]
    truth = read_truth(protocol, rules.duplicates)
    candidates = find_candidates(truth, people)
    # The candidates of query q are pairs[q]:pairs[q + 1].
    pairs = np.searchsorted(candidates.entries, truth.ptr)
    for start in range(0, len(protocol), BLOCK):
        if similarity_of is None:
            similarities = queries[start : start + BLOCK] @ embeddings.T
        else:
            numbers = range(start, min(start + BLOCK, len(protocol)))
            similarities = np.stack([similarity_of(number) for number in numbers])
        for offset, similarity in enumerate(similarities):
            query = start + offset
            images = _gallery_images(protocol, query, rules.duplicates)
            rows = people.rows_of(images)
            if rules.cbgm and context is not None:
                friends = context.of(query)[: rules.cbgm[1]]
                similarity = rerank(similarity, rows, people, embeddings, friends, rules.cbgm[0])
            part = slice(int(pairs[query]), int(pairs[query + 1]))
            if protocol.junk is not None:
                junk = junk_rows(*protocol.junk_of(query), people)
                rows = rows[~np.isin(rows, junk)]
                # Out of the running for the true boxes too.
                similarity[junk] = -np.inf
            positive = _best_of_each(similarity, candidates, part)
            found = similarity[candidates.rows[positive]]
            positive, found = positive[found > -np.inf], found[found > -np.inf]
            gallery = similarity[rows]
            rank = NEVER
            if len(positive):
                best = found.max()
                rank = int(np.count_nonzero(gallery > best))
                if np.count_nonzero(gallery == best) > 1:
                    first = min(
                        _place(truth, images, rows, candidates, pair, people)
                        for pair in positive[found == best].tolist()
                    )
                    rank += int((gallery[:first] == best).sum())
            yield Ranking(query, images, rows, gallery, candidates.rows[positive], found, rank)


def _gallery_images(
    protocol: RetrievalProtocol, query: int, duplicates: Duplicates
) -> npt.NDArray[np.int32]:
    """Scenes of a query's gallery, in its order."""
    images = protocol.images(query)
    if duplicates == "seqnet" and isinstance(protocol.gallery, ListedGallery):
        images = images[np.sort(np.unique(images, return_index=True)[1])]
    return images


def _best_of_each(similarity: FloatArray, candidates: Candidates, part: slice) -> Int64:
    """Pick the positive of each true box: its most similar candidate, where it has any."""
    entries, rows = candidates.entries[part], candidates.rows[part]
    order = np.lexsort((rows, -similarity[rows], entries))
    first = np.ones(len(order), bool)
    first[1:] = entries[order][1:] != entries[order][:-1]
    return np.asarray(order[first] + part.start, dtype=np.int64)


def _place(
    truth: Truth,
    images: npt.NDArray[np.int32],
    rows: Int64,
    candidates: Candidates,
    pair: int,
    people: People,
) -> int:
    """Where a positive stands in its gallery: ties are broken by the order of scenes and people."""
    entry, row = int(candidates.entries[pair]), int(candidates.rows[pair])
    places = np.flatnonzero(rows == row)
    if len(places) == 1:
        return int(places[0])
    # Where a scene is listed twice, each true box belongs to one of the two.
    listing = int(truth.listings[entry])
    return int(people.counts[images[:listing]].sum()) + row - int(people.ptr[truth.images[entry]])
