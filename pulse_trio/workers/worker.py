"""The program of a worker: it serves on sockets that it inherits, until its supervisor, or the end of it, stops it."""

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Final

import structlog
import trio
from hypercorn.config import Config, Sockets

from pulse_trio import logs
from pulse_trio.app import PulseApp
from pulse_trio.console import exit_with
from pulse_trio.database.pool_share import PoolShare
from pulse_trio.edge import server
from pulse_trio.edge.operators.probes import serve_siblings
from pulse_trio.edge.server.gate import Gate
from pulse_trio.edge.server.shared_load import LoadTable, SharedLoad
from pulse_trio.edge.siblings import Siblings
from pulse_trio.errors import LaunchError
from pulse_trio.launch import open_worker_app
from pulse_trio.settings import Settings
from pulse_trio.signals import StopSignals, unwrap_exit
from pulse_trio.workers.assignment import BEAT, READY, Assignment

BEAT_SECONDS: Final = 1.0  # between two signs of life

log = structlog.get_logger(__name__)


def main() -> None:
    """Runs the worker of the assignment on standard input; ends the process with 1 if it cannot."""
    assignment = Assignment.decode(sys.stdin.buffer.read())
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    logs.configure_start()
    signals = StopSignals()
    structlog.contextvars.bind_contextvars(worker=assignment.slot)
    try:
        settings = load_settings(assignment)
        logs.configure(settings, warn=False)
        load = SharedLoad(LoadTable(assignment.table, assignment.cells), assignment.cell)
        supervised = server.Supervised(
            load=load, metrics=_listener(assignment.metrics), is_replaced=lambda: signals.name == "SIGHUP"
        )
        gate = server.install(settings, supervised=supervised)
        config = assignment.http.config()
        server.load_certificate(config)
        asked = socket.socket(fileno=assignment.asked)
        siblings = Siblings(Path(assignment.siblings), assignment.slot, assignment.workers, asked)
        share = PoolShare(**assignment.share)
        with open_worker_app(settings, share, siblings, owner=assignment.owner, ended=assignment.ended) as app:
            signals.keep()
            trio.run(_run, app, config, _sockets(assignment), signals, gate, load, assignment.ready)
    except LaunchError as error:
        raise exit_with(error) from None
    except KeyboardInterrupt:
        raise SystemExit(0) from None


def load_settings(assignment: Assignment) -> Settings:
    """Reads the settings of a worker: those of the environment, as its supervisor has completed them.

    Raises:
        LaunchError: as `Settings.load`.
    """
    # The supervisor has taken on the account, and has waited for its turn.
    settings = Settings.load(**assignment.settings, cluster=True)
    return settings.model_copy(update={"user": None, "standby": False})


def _sockets(assignment: Assignment) -> Sockets:
    def open_all(descriptors: list[int]) -> list[socket.socket]:
        return [found for found in map(_listener, descriptors) if found is not None]

    return Sockets(open_all(assignment.secure), open_all(assignment.insecure), [])


def _listener(descriptor: int | None) -> socket.socket | None:
    if descriptor is None:
        return None
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    return sock


async def _run(
    app: PulseApp,
    config: Config,
    sockets: Sockets,
    signals: StopSignals,
    gate: Gate | None,
    load: SharedLoad,
    ready: int,
) -> None:
    """Serves until a signal; shows signs of life meanwhile.

    Cancelled: connections are dropped.
    """
    os.set_blocking(ready, False)
    with unwrap_exit():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_beat, ready, name="signs of life")
            asked = trio.CancelScope()

            async def stop() -> None:
                await signals.wait()
                if signals.name == "SIGHUP":
                    asked.cancel()  # the successor answers from now on

            async def answer_siblings() -> None:
                with asked:
                    await serve_siblings(app, gate)

            def begin() -> None:
                nursery.start_soon(answer_siblings, name="metrics for other workers")
                _write(ready, READY)

            await server.serve(server.wrap(app), config, sockets, stop, begin)
            nursery.cancel_scope.cancel()
    load.close()


async def _beat(ready: int) -> None:
    """Shows the supervisor that the event loop runs, until cancelled; stops this process once the supervisor ends."""
    while True:
        _write(ready, BEAT)
        await trio.sleep(BEAT_SECONDS)


def _write(ready: int, sign: bytes) -> None:
    try:
        os.write(ready, sign)
    except BlockingIOError:  # the supervisor stands still
        pass
    except BrokenPipeError:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
