"""Where events are taken from beside the HTTP API: a bus, whose messages are appended and then acknowledged."""
