"""Learned feature columns for Parquet tables: train, judge, register, score, publish."""

__version__ = "0.1.0"
