"""Several nodes of tocsin on one model of the database, under the same seeded loop."""
