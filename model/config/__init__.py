"""Experiments as JSON and folders: params.json, dotted paths, the folder's files. Nothing here imports torch."""
