"""Break ``honest`` in the way that ``DEFECT`` names, and run it."""

import importlib
import os

import honest

importlib.import_module(os.environ["DEFECT"])
honest.main()
