"""The segment on which load-balancing hosts hear each other: raw frames, and the thread that drives the machine."""
