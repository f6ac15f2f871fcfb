"""The gateway: a REST server over sandbox backends."""
