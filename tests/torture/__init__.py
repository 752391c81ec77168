"""Makes a running tocsin fail in many ways, and checks afterwards what became of every event."""
