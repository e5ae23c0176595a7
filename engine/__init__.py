"""Chogo: a declarative recipe engine that compounds medical language models."""
