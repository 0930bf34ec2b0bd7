"""What the dataset can be brought into: folders, files and databases."""
