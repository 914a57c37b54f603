"""One network's process inside its namespace: bridge, filter, names, ports, the way out."""
