"""Differences within and between subgroups of cases and strata of lesions."""
