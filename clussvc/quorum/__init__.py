"""Quorum: who may continue."""
