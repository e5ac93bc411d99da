"""The report's text: verdict, limitations, results in sentences, a paper's sections, checklists."""
