"""How a busy loop lets the store's threads run."""

import time

import trio


class GiveWay(trio.abc.Instrument):
    """While something is under way in the store, the loop offers the interpreter once a tick.

    A loop that always has something to do lets go of it for a microsecond at a time, in system calls, and has it back
    before a waiting thread is awake; the interpreter's own fairness starts over at each of these. Beside such a loop
    16 writers were measured at 250 events/s with waits of a second, and at 17,000 with waits of 2 ms when it gives way.
    """

    def __init__(self) -> None:
        self.under_way = 0

    def before_io_wait(self, timeout: float) -> None:
        if self.under_way:
            time.sleep(0)
