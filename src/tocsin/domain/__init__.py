"""The terms of tocsin: events, devices, payloads, outcomes. No I/O, no clock, no logging."""
