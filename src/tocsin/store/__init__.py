"""Storage, behind the ports of `ports.py`: the only doors that the rest of tocsin knows."""
