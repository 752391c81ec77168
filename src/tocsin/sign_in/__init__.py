"""Whose session a text is: one of tocsin's own, a JWT of the platform's issuer, or what the platform's service knows.

Nothing here logs, quotes or keeps such a text.
"""
