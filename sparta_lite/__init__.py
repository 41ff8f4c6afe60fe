"""SPARTA alignment on one card."""

__version__ = "0.1.0"
