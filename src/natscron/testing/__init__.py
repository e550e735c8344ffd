"""Shipped test tools: virtual time, the storage conformance suite, faults."""
