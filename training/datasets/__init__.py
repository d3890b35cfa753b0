"""Datasets: what lies in their folders becomes `AnnotatedScene`s and retrieval protocols.

`training.datasets.opening.open_dataset` reads any of them. Nothing is imported here: the command's
help must not load NumPy.
"""
