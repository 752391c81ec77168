"""The line: claim, look up, render, send, settle."""
