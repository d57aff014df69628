"""The handlers of all methods by name, and the check that they fit the rows of METHODS."""

from collections.abc import Awaitable, Callable, Mapping
from inspect import iscoroutinefunction
from typing import Any

from msgspec import Struct

from walrus_protocol.methods import METHODS
from walrusd.rpc.request_context import RequestContext

# Any: each handler takes the params type of its method's row.
Handler = Callable[[RequestContext, Any], Struct | Awaitable[Struct]]
"""Returns the result of a request if its method is inline, else an awaitable of it. Raises Problem."""
Routes = Mapping[str, Handler]


def check_routes(routes: Routes) -> None:
    """Raises ValueError unless each method has a handler, and each handler fits the row of its method."""
    misfits = [
        *(f"{name} has no handler" for name in METHODS if name not in routes),
        *(f"{name} has a handler and no row" for name in routes if name not in METHODS),
        *(
            f"{name} has a handler that does not fit inline={row.inline}"
            for name, row in METHODS.items()
            if name in routes and iscoroutinefunction(routes[name]) == row.inline
        ),
    ]
    if misfits:
        raise ValueError("; ".join(misfits))
