"""What the gateway and the sidecar share: keys, watch, publishing and the supervision of the Envoy beside them."""
