"""Prints a line longer than any reader keeps."""

import sys

for _ in range(400):
    sys.stdout.write("." * (1 << 20))
print(flush=True)
