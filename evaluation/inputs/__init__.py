"""What is scored against what: truth, predictions, and the files that name cases."""
