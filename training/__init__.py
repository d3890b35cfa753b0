"""Training: datasets, transforms, recipes and the training loop. Planned, nothing is here yet.

Imports `model`. Only `benchmark` imports from here, and of this package only `training.datasets`.
"""
