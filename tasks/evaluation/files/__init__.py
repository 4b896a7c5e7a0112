"""Predictions in files of this and other programs."""
