"""Apple and Google, as siblings: a push goes in, one Outcome comes out. A provider never touches the store."""
