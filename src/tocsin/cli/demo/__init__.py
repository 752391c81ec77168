"""`tocsin demo`: the product at work on one machine, with an Apple and a Google of its own."""
