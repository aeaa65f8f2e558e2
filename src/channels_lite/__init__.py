"""A Django Channels layer on nothing but SQLite."""

__version__ = "0.5.0"
