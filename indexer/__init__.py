"""The gallery: scenes and video in, boxes and embeddings in a searchable store.

Today it reads sources and runs the search branch over them (`binet demo`); the store itself, the
vector index and the jobs come with the gallery. Imports `model`; knows no HTTP.
"""
