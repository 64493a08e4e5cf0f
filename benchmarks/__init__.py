"""Measured speeds."""
