"""tocsin: one event in, every device rung."""

__version__ = "0.1.0"
