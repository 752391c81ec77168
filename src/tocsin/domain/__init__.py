"""What tocsin speaks of: events, devices, payloads, outcomes. No I/O, no clock, no logging."""
