"""`tocsin console`: the operator's pages. A process of its own, and a client of the admin API over HTTP.

It imports nothing of tocsin but its settings. Keys stay in its memory; the browser has a random cookie.
"""
