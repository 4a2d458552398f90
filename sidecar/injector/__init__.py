"""Puts a sidecar into a pod: the pure decision, and the admission webhook that carries it to an API server."""
