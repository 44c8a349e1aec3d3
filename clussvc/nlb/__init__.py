"""Network Load Balancing: which host of a cluster takes which client, decided alike on every host."""
