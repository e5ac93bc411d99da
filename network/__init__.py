"""Study → tensors → network → probability: what training and inference both need (torch).

Whoever imports torch has imported this package before it: OpenMP reads its settings when torch is loaded.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
"""Waiting threads sleep; spinning, they would take most of the time on busy cores. No bit depends on it."""
