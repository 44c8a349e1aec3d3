"""Administration over Pyro5: the objects that a node serves, and the client's end."""
