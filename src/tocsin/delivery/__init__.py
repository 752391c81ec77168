"""Delivery: claim, look up, expand, send, settle."""
