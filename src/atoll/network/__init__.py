"""Networks on the host: namespaces, taps, segments. Knows no container and no engine."""
