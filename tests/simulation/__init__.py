"""A whole cluster of real NodeCores on a virtual clock."""
