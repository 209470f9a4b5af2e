"""How many threads multiply: all there are, and fewer while other programs want the processors too.

Threads that multiply together wait for each other at every product, by spinning. With one other busy program on two
cores each of some hundred products a step waits for a thread that is not running: a token took 400 ms instead of 40,
and takes 60 with one thread. So every half second what this process got of the processors is compared with what it
asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import torch

LOOK = 0.5  # seconds between two looks
ENOUGH = 0.9  # of the processors' time that was asked for: less, and somebody else had it
FREE = 0.75  # of a processor that has nothing to do: one more thread is tried
PATIENCE = 2.0  # seconds before more threads are tried again; doubled whenever that was too early
LONGEST = 60.0


class Pace:
    """Sets the number of threads of the thread that calls `look`, between 1 and what it was at first.

    wall, own: clocks, in seconds, of the world and of this process on all processors. idle: seconds that all
    processors together had nothing to do. use: sets the number.
    """

    def __init__(
        self,
        most: int | None = None,
        wall: Callable[[], float] = time.monotonic,
        own: Callable[[], float] = time.process_time,
        idle: Callable[[], float] = lambda: float(psutil.cpu_times().idle),
        use: Callable[[int], None] = torch.set_num_threads,
    ) -> None:
        self.most = most or torch.get_num_threads()
        self.threads = self.most
        self._wall, self._own, self._idle, self._use = wall, own, idle, use
        self._patience = PATIENCE
        self._changed = -LONGEST
        self._given_back = False
        self.rest()

    def begin(self) -> None:
        """To be called by a thread that begins to multiply: it gets this number, whatever others have set meanwhile."""
        self._use(self.threads)

    def rest(self) -> None:
        """Nothing is multiplied for a while: what is measured begins anew."""
        self._since: tuple[float, float, float] | None = None

    def give_back(self) -> None:
        """Let what else this thread multiplies, like a training, have all threads until the next look.

        Threads that begin get the number that was set last, by whomever.
        """
        self.rest()
        if self.threads < self.most and not self._given_back:
            self._given_back = True
            self._use(self.most)

    def look(self) -> None:
        """To be called between two steps; does nothing most of the time."""
        if self.most == 1:
            return
        if self._given_back:
            self._given_back = False
            self._use(self.threads)
        now = self._wall()
        if self._since is None:
            self._since = now, self._own(), self._idle()
            return
        wall = now - self._since[0]
        if wall < LOOK:
            return
        got, idle = (self._own() - self._since[1]) / wall, (self._idle() - self._since[2]) / wall
        self._since = now, self._own(), self._idle()
        missing = self.threads - got
        if self.threads > 1 and got < ENOUGH * self.threads and idle < missing / 2:
            if now - self._changed < 2 * self._patience:  # more were tried too early
                self._patience = min(2 * self._patience, LONGEST)
            self._set(max(1, min(self.threads - 1, round(got))), now)
        elif self.threads < self.most and now - self._changed >= self._patience:
            if idle >= FREE:
                self._set(min(self.most, self.threads + round(idle)), now)
        elif now - self._changed > LONGEST:
            self._patience = PATIENCE

    def _set(self, threads: int, now: float) -> None:
        self.threads, self._changed = threads, now
        self._use(threads)
