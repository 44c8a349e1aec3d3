"""The network card of a load-balanced cluster: virtual addresses, link addresses, answers to neighbours."""
