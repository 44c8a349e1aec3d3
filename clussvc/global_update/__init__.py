"""Global update: every change as a typed value, and the one function that applies it."""
