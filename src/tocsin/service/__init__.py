"""Composition: the one place that knows every part, and what happens now and then."""

from tocsin.service.start import ServiceError, serve

__all__ = ["ServiceError", "serve"]
