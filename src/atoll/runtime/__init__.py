"""One process per container: it owns the VM, the agent's connection, the standard streams and the log.

The engine imports `client`, `spawner` and `logs` and nothing else of this package, so nothing is re-exported here.
"""
