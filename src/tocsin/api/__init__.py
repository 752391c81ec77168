"""The HTTP API for apps, backends and operators. It reads and changes the store; it never sends a push."""
