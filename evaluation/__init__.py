"""Cases → matching → scores → intervals and permutation tests → compare → report. Never imports torch."""
