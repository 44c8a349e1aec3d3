"""The server of this machine behind the virtual addresses of a load-balanced cluster: whether it answers."""
