"""A cluster on this machine: PostgreSQL with a standby, three NATS servers, four tocsin processes, the emulator."""
