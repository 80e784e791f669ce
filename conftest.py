"""For all tests of the workspace: small models are fastest on one thread, and idle threads must not spin beside the processes that tests start.

It has to be said before torch is imported; what the environment says already counts.
"""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A job in the background of a script ignores Ctrl-C, and so would the processes that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
