"""The store on PostgreSQL: any number of nodes on one database. `docs/scale.md` and `docs/decisions/020` explain it."""
