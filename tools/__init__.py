"""What makes a release: the wheels, and the list of what they need. Run with `make wheel` and `make sbom`."""
