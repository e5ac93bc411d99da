"""An archive: its studies, their patients, the marksheet."""
