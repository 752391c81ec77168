"""`tocsin demo`: the whole service on this machine, against an emulator of Apple and Google."""
