"""The benchmark: search and detection metrics, scored exactly as the literature does.

`people` (detections as arrays) -> `matching` (which of them is the person) -> `search` and
`detection` (metrics). `saved` reads detections of any system from files, `reranking` is CBGM.

Imports `training.datasets`, `indexer` and `model`. Nothing imports from here except the command.
"""
