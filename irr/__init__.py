"""Infer–Retrieve–Rank: tag texts with labels from vocabularies of thousands to millions."""

from __future__ import annotations

__version__ = "0.1.0"
