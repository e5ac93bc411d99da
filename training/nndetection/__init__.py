"""Upstream nnDetection behind an adapter: its programs are run, and none of its code is imported.

One state of it is targeted, MIC-DKFZ/nnDetection 97a58f3. ``dataset_layout`` writes the folders that it reads,
``commands`` runs its programs, each under a ``process_guard``, ``training`` calls them in order, ``model`` keeps what
they trained, ``boxes_file`` reads what they found, and ``prediction`` turns that into detection maps.
"""

PARENT = "nndetection"
"""Name of ``nndetection.json`` among the parents of ``run.json``; runs of other engines have no such parent."""
