"""The report: page, figures, tables and text."""
