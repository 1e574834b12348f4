"""Entry of ``python -m engine``."""

import os
import sys

# Before torch is loaded; asgi.py says why.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from engine.cli import main

sys.exit(main())
