"""A small Django site whose jobs are run by natscron."""
