"""Limits of requests to an endpoint: requests and tokens a minute, and the cost that must not be passed."""

import threading
import time
from collections import deque
from collections.abc import Callable

from pipeline.core.errors import UserError
from pipeline.evaluate.endpoints.exchanges import Request, Usage
from pipeline.params.endpoints.cards import Price

MINUTE = 60.0


class RateLimit:
    """Lets requests through so that no minute has more of them, or more tokens, than the limits.

    Args:
        requests: a minute; None: no limit.
        tokens: a minute, input and output together; None: no limit. A larger request passes alone.
        pause: waits for seconds, and returns whether no more requests are to be sent; then it returns at once.
        clock: seconds that only increase.
    """

    def __init__(
        self,
        requests: int | None,
        tokens: int | None,
        *,
        pause: Callable[[float], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests, self._tokens, self._pause, self._clock = requests, tokens, pause, clock
        self._lock = threading.Lock()
        # time and tokens of the requests of the last minute
        self._recent: deque[tuple[float, int]] = deque()

    def wait(self, tokens: int) -> None:
        """Wait until a request of so many tokens may be sent, and count it; return early if none is to be sent any more."""
        # the lock is held while waiting: others wait for the same reason, and keep their order
        with self._lock:
            while (delay := self._delay(tokens)) > 0:
                if self._pause(delay):
                    return
            self._recent.append((self._clock(), tokens))

    def _delay(self, tokens: int) -> float:
        now = self._clock()
        while self._recent and now - self._recent[0][0] >= MINUTE:
            self._recent.popleft()
        if not self._recent:
            return 0.0
        full = self._requests is not None and len(self._recent) >= self._requests
        full |= self._tokens is not None and sum(size for _, size in self._recent) + tokens > self._tokens
        return self._recent[0][0] + MINUTE - now if full else 0.0


class Budget:
    """Keeps the cost of responses below a limit: a request is sent only if the most it can cost still fits.

    Responses mostly cost less than the most, so a request that does not fit waits for those that are on their way.

    Args:
        price: of tokens; None: nothing is counted.
        limit: None: no limit.
        spent: cost of the responses that are there already.
        where: the card, for messages.

    Raises:
        UserError: there is a limit, but no price.
    """

    def __init__(self, price: Price | None, *, limit: float | None, spent: float = 0.0, where: str) -> None:
        if limit is not None and price is None:
            raise UserError(
                f"{where}: price: missing, so max_cost={limit:g} cannot be enforced; add the price, or leave max_cost out"
            )
        self.price, self.limit, self.spent, self._where = price, limit, spent, where
        # of the requests that are on their way
        self._reserved: list[float] = []
        self._is_stopped = False
        self._changed = threading.Condition()

    def reserve(self, request: Request) -> float:
        """Set aside the most that a request can cost, and return it; 0 if requests are stopped, or nothing is counted.

        Raises:
            UserError: it would pass the limit, whatever the requests on their way cost.
        """
        if self.price is None:
            return 0.0
        bound = self.price.cost(input_tokens=request.token_bound, output_tokens=request.output_limit)
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopped or self._fits(bound) or not self._reserved)
            if self._is_stopped:
                return 0.0
            if not self._fits(bound):
                raise UserError(
                    f"{self._where}: max_cost={self.limit:g}: the next request could exceed it ({self.spent:.4f} "
                    f"{self.price.currency} are spent); raise --config max_cost"
                )
            self._reserved.append(bound)
        return bound

    def _fits(self, bound: float) -> bool:
        return self.limit is None or self.spent + sum(self._reserved) + bound <= self.limit

    def settle(self, bound: float, usage: Usage | None) -> None:
        """Replace what was set aside by what the response cost; None: there was no response."""
        with self._changed:
            # those of requests without a price, or that were stopped, are not in the list
            if bound in self._reserved:
                self._reserved.remove(bound)
            self.spent += 0.0 if usage is None else cost_of(self.price, usage, bound)
            self._changed.notify_all()

    def stop(self) -> None:
        """Let no request wait, or begin, any more."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()


def cost_of(price: Price | None, usage: Usage, bound: float) -> float:
    """Return what a response cost; ``bound`` where the endpoint does not state its tokens."""
    if price is None:
        return 0.0
    if usage.input_tokens is None or usage.output_tokens is None:
        return bound
    return price.cost(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
