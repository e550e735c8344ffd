"""WHAT THEN: pure decisions about what is late, what overlaps and what failed."""
