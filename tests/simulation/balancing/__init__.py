"""Load-balancing hosts on one lossy segment: the real machines and the real frames, on virtual time, from one seed."""
