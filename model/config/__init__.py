"""Experiments as JSON and folders: params.json, dotted paths, the files of a folder. Imports no torch."""
