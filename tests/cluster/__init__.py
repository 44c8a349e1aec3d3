"""Real service processes on real (virtual) machines: one set of namespaces per node, joined by a bridge."""
