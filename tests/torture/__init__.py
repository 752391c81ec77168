"""Breaks a running tocsin in every way that can be broken on purpose, and accounts for every event afterwards."""
