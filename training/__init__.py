"""Training: datasets, recipes, the loop, and a drawn world to try them on.

Imports `model`. Only `benchmark` imports from here, and of this package only `training.datasets`.
"""
