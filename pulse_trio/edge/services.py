"""What the routes work with, opened by `pulse_trio.app` before the first request."""

from dataclasses import dataclass
from typing import Final

from quart import current_app

from pulse_trio.clock import Clock
from pulse_trio.edge.auth import Authenticator, Passwords, Tokens
from pulse_trio.edge.limits import Limits
from pulse_trio.edge.origins import Origins
from pulse_trio.edge.readiness import Readiness
from pulse_trio.edge.tickets import Tickets
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import IdSource
from pulse_trio.metrics import Metrics
from pulse_trio.protocol import FrameReader
from pulse_trio.rooms.hub import Hub
from pulse_trio.settings import Settings
from pulse_trio.store.base import Store

_KEY: Final = "pulse_trio"
_METRICS: Final = "pulse_trio.metrics"
_FAILED: Final = "pulse_trio.failed"


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a running service."""

    settings: Settings
    clock: Clock
    ids: IdSource
    store: Store
    hub: Hub
    tokens: Tokens
    passwords: Passwords
    authenticator: Authenticator
    origins: Origins
    frames: FrameReader
    limits: Limits
    tickets: Tickets
    metrics: Metrics
    readiness: Readiness


def services() -> Services:
    """The parts of the service that handles the current request.

    Raises:
        PulseError: the service is starting or stopping.
    """
    found = current_app.extensions.get(_KEY)
    if not isinstance(found, Services):
        raise PulseError(ErrorCode.UNAVAILABLE, "The service is starting or stopping; try again in a moment")
    return found


def current_metrics() -> Metrics:
    """The record of the app that handles the current request, also while its service starts or stops."""
    found = current_app.extensions[_METRICS]
    assert isinstance(found, Metrics)
    return found


def set_metrics(extensions: dict[str, object], value: Metrics) -> None:
    """Gives an app its record, for good."""
    extensions[_METRICS] = value


def set_services(extensions: dict[str, object], value: Services | None) -> None:
    """Opens the routes of an app, or closes them with None."""
    extensions[_KEY] = value


def has_failed() -> bool:
    """Says that the service of the current app has failed, and will not open again in this process."""
    return _FAILED in current_app.extensions


def set_failed(extensions: dict[str, object]) -> None:
    """Records, for good, that the service of an app has failed."""
    extensions[_FAILED] = True
