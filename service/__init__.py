"""The service: HTTP interface, keys, audit, the encoder worker, the web page. Planned, nothing yet.

Imports `indexer` and `model`. Nothing imports from here except the command.
"""
