"""`tocsin top`: how a running server is doing, live in the terminal."""
