"""One dataset out of all runs: which tables it has, and how they are brought into files and databases."""
