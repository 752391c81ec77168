"""The HTTP API: three doors (apps, backends, operators) to the store. It never sends a push."""
