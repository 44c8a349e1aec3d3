"""The segment on which load-balancing hosts hear each other: raw frames on an adapter."""
