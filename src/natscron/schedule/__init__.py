"""WHEN: pure functions from an instant to the next one and to the last one at or before it."""
