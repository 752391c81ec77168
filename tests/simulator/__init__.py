"""The line in virtual time: tocsin's own parts under a seeded event loop. `docs/reliability.md` describes it."""
