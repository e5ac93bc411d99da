"""Files and folders: atomic writing, bounded reading, checksums, locks, tarballs, images by case."""
