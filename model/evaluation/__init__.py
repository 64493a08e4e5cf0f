"""Evaluation of one network: accuracy, confusion, cost and latency."""
