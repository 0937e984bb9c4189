"""The end of a run that somebody asks for: Ctrl-C means what SIGTERM does."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

from pytorch_lightning.utilities.exceptions import SIGTERMException


@contextlib.contextmanager
def interrupts_end_the_step() -> Iterator[None]:
    """Have a first Ctrl-C end the step, keep ``last.ckpt`` and leave.

    A second one breaks off, as does the first while there is no step to end.

    Raises:
        SystemExit: with 128 plus the signal's number when one ended the run.
    """
    received: list[int] = []

    def end_after_the_step(number: int, _: object) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Until the data is there, Lightning does not listen: SIGTERM would end the process at once.
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGINT)
    # A shell has what it starts in the background ignore it: it is meant for others then.
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, end_after_the_step)
    try:
        yield
    except SystemExit as end:
        # Lightning leaves with status 1 after a KeyboardInterrupt.
        if not received and not isinstance(end, SIGTERMException):
            raise
        sys.exit(128 + (received or [signal.SIGTERM])[0])
    finally:
        signal.signal(signal.SIGINT, before)
