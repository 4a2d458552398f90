"""Isthmus: joins separate clusters into one federation."""

__version__ = "0.1.0"
"""That of pyproject.toml; reading it from the installed metadata would cost every process 2 MB of imports."""
