"""How calls to virtual addresses reach Envoy: port clashes of the loopback way, rules of the redirect way."""
