"""The benchmark: retrieval protocols, evaluator, tables, plots, gates. Planned, nothing yet.

Imports `training.datasets`, `indexer` and `model`. Nothing imports from here except the command.
"""
