"""The objects of remote administration, one module for each kind of thing in the cluster."""
