"""A request inside Hypercorn whose handler is cancelled when its client has gone."""

from hypercorn.protocol import http_stream
from hypercorn.protocol.events import Event, StreamClosed
from hypercorn.protocol.http_stream import ASGIHTTPState

from pulse_trio.edge.server.handler_scope import begin_handler


class HttpStream(http_stream.HTTPStream):
    """A request and its answer."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._handler = begin_handler()

    async def handle(self, event: Event) -> None:
        """Like the original, but cancels the handler, too, when the end comes before the answer is complete.

        That is the last step: the caller may be the handler itself, whose write found that the client has gone.
        """
        is_incomplete = isinstance(event, StreamClosed) and self.state is not ASGIHTTPState.CLOSED
        await super().handle(event)
        if is_incomplete:
            self._handler.cancel()
