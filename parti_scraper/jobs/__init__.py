"""Crawls on several machines: jobs in a queue in PostgreSQL, which workers run."""
