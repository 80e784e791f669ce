"""For all tests of the workspace: small models are fastest on one thread, and idle threads must not spin beside the processes that tests start.

It has to be said before torch is imported; what the environment says already counts.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
