"""The parts of the service that routes use; `pulse_trio.app` opens them before the first request."""

from dataclasses import dataclass, field
from typing import Final

from quart import Quart, current_app

from pulse_trio.auth.authenticator import Authenticator
from pulse_trio.auth.tickets import Tickets
from pulse_trio.conversations.accounts import AccountCore
from pulse_trio.edge.audit import Audit
from pulse_trio.edge.client_address import Proxies
from pulse_trio.edge.common_headers import CommonHeaders
from pulse_trio.edge.limits import Limits
from pulse_trio.edge.log_samples import LogSampler
from pulse_trio.edge.origins import Origins
from pulse_trio.edge.readiness import Readiness
from pulse_trio.edge.response_budget import ResponseBudget
from pulse_trio.edge.siblings import Siblings
from pulse_trio.edge.turns import Turns
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.metrics import Metrics
from pulse_trio.protocol import FrameReader

_KEY: Final = "pulse_trio"
_FAILED: Final = "pulse_trio.failed"
_APP_PARTS: Final = "pulse_trio.app"


@dataclass(frozen=True, slots=True)
class AppParts:
    """The parts of an app that exist while its service starts, stops or opens again as well.

    Attributes:
        metrics_samples: chooses the requests for metrics that are not served which get a line in the log.
        siblings: the other workers of this machine, if there are any.
    """

    response_budget: ResponseBudget
    metrics: Metrics
    origins: Origins
    headers: CommonHeaders
    proxies: Proxies
    audit: Audit
    turns: Turns  # of requests with large bodies
    metrics_samples: LogSampler = field(default_factory=LogSampler)
    siblings: Siblings | None = None


@dataclass(frozen=True, slots=True)
class Services(AccountCore):
    """The parts of a running service: those of the use cases, and those that only the edge needs."""

    authenticator: Authenticator
    frames: FrameReader
    limits: Limits
    tickets: Tickets
    readiness: Readiness


def services() -> Services:
    """Returns the parts of the service that handles the current request.

    Raises:
        PulseError: the service is starting or stopping.
    """
    found = current_app.extensions.get(_KEY)
    if not isinstance(found, Services):
        raise PulseError(ErrorCode.UNAVAILABLE, "The service is starting or stopping; retry in a moment")
    return found


def app_parts() -> AppParts:
    """Returns the parts of the app that handles the current request; unlike `services` they always exist."""
    return app_parts_of(current_app)


def app_parts_of(app: Quart) -> AppParts:
    """Returns the parts of an app."""
    found = app.extensions[_APP_PARTS]
    assert isinstance(found, AppParts)
    return found


def set_app_parts(extensions: dict[str, object], value: AppParts) -> None:
    """Sets the parts of an app, once."""
    extensions[_APP_PARTS] = value


def set_services(extensions: dict[str, object], value: Services | None) -> None:
    """Opens the routes of an app, or closes them with None."""
    extensions[_KEY] = value


def has_failed() -> bool:
    """Returns whether the service of the current app has failed; it does not open again in this process."""
    return _FAILED in current_app.extensions


def set_failed(extensions: dict[str, object]) -> None:
    """Records that the service of an app has failed; this cannot be undone."""
    extensions[_FAILED] = True
