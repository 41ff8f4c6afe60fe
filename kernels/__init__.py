"""Arithmetic alone: tensors in, tensors out. Nothing here knows of tribes, duels or files."""
