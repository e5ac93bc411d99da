"""The report: page, figures, tables, pictures of missed lesions."""
