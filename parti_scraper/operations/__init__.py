"""Whether the collection is healthy: the history of runs, rules, alerts, metrics, and the end of what is exported."""
