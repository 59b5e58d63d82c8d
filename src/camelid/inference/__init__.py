"""Weights and a prompt become text."""
