"""The report's tables as files, and the footnotes of its page."""
