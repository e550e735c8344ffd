"""The steps of the schema, oldest first. Each bears being run again: MySQL keeps half of one that was broken off."""
