"""The real proxies on our files in deploy/; before several servers, with the blocks in docs/scaling.md."""

import os
import re
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from tests.support.certificate import make_certificate
from tests.support.programs import require_program

ROOT = Path(__file__).resolve().parents[2]
MAX_CONNECTIONS = 1_000  # of HAProxy: more than any test opens


class Proxy(ABC):
    """A proxy on a free port.

    Args:
        folder: for its files.
        upstreams: the ports on which the service listens.
    """

    def __init__(self, folder: Path, *upstreams: int) -> None:
        self.folder = folder
        self.upstreams = upstreams
        with socket.socket() as sock:  # free a moment later, too: nobody asks for ports in the same way here
            sock.bind(("127.0.0.1", 0))
            self.port = int(sock.getsockname()[1])
        self.base_url = f"https://127.0.0.1:{self.port}"
        self.certificate, self.key = make_certificate(folder)
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Returns the command that runs the proxy in the foreground, on our file."""

    def start(self) -> None:
        with (self.folder / "said").open("ab") as said:
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=self.folder
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
            except OSError:
                assert self._process.poll() is None, self.said
                assert time.monotonic() < deadline, self.said
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(15)
            finally:
                self._process.kill()
                self._process.wait()
            self._process = None

    @property
    def said(self) -> str:
        """All that it has written, to whatever log."""
        return "".join(path.read_text(errors="replace") for path in self.folder.rglob("*") if path.name in self.logs)

    logs: tuple[str, ...] = ("said",)


# Where the service's address is in the files in deploy/: a block in docs/scaling.md for several takes its place.
PLACES = {
    "nginx": ("nginx/pulse-trio.conf", r"^upstream pulse_trio \{.*?^\}"),
    "caddy": ("caddy/Caddyfile", r"^\treverse_proxy .*?^\t\}"),
    "haproxy": ("haproxy/haproxy.cfg", r"^backend pulse_trio\n.*\Z"),
}


def deployed(name: str, upstreams: Sequence[int]) -> str:
    """Returns the file of a proxy, with the service at these ports."""
    file, place = PLACES[name]
    text = (ROOT / "deploy" / file).read_text()
    if len(upstreams) == 1:
        return put(text, ("127.0.0.1:8000", f"127.0.0.1:{upstreams[0]}"))
    (block,) = re.findall(rf"^```{name}\n(.*?)^```", (ROOT / "docs/scaling.md").read_text(), re.MULTILINE | re.DOTALL)
    text, count = re.subn(place, lambda _: block.rstrip("\n"), text, flags=re.MULTILINE | re.DOTALL)
    assert count == 1, name
    return put(text + "\n", *((f"10.0.0.{at}:8000", f"127.0.0.1:{port}") for at, port in enumerate(upstreams, 1)))


def put(text: str, *changes: tuple[str, str]) -> str:
    """The text with these changes, each of which must be of something that is in it."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


class Nginx(Proxy):
    logs = ("said", "access.log", "error.log")

    def command(self) -> list[str]:
        program = require_program("nginx", "nginx-light")
        site = put(
            deployed("nginx", self.upstreams),
            ("listen 443 ssl;", f"listen 127.0.0.1:{self.port} ssl;"),
            ("listen [::]:443 ssl;", ""),
            ("/etc/ssl/chat.example.pem", str(self.certificate)),
            ("/etc/ssl/private/chat.example.key", str(self.key)),
            ("/var/log/nginx/pulse-trio.log", str(self.folder / "access.log")),
            ("/var/log/nginx/error.log", str(self.folder / "error.log")),
        )
        (self.folder / "site.conf").write_text(site)
        folders = "".join(
            f"{kind}_temp_path {self.folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.folder / "nginx.conf").write_text(
            f"daemon off;\npid {self.folder}/pid;\n"
            + ("user root;\n" if os.geteuid() == 0 else "")
            + f"error_log {self.folder}/error.log crit;\n{self.events()}\n"
            f"http {{\n{folders}include {self.folder}/site.conf;\n}}\n"
        )
        command = [program, "-e", str(self.folder / "error.log"), "-p", str(self.folder)]
        return [*command, "-c", str(self.folder / "nginx.conf")]

    @staticmethod
    def events() -> str:
        """Returns what the site's file says to put into nginx.conf."""
        lines = (ROOT / "deploy/nginx/pulse-trio.conf").read_text().splitlines()
        found = [line.removeprefix("#").strip() for line in lines if re.match("# {5}", line)]
        assert [line.split()[0] for line in found] == ["worker_rlimit_nofile", "events"]
        return "\n".join(found)


class Caddy(Proxy):
    def command(self) -> list[str]:
        program = require_program("caddy", "caddy")
        tls = f"chat.example {{\n\ttls {self.certificate} {self.key}"
        site = put(
            deployed("caddy", self.upstreams),
            ("chat.example {", tls.replace("chat.example {", f"https://127.0.0.1:{self.port} {{")),
            # Of the machine of a test nothing else is taken: no other port, no folder of root's.
            (
                "{\n\t# A token",
                f"{{\n\tadmin off\n\tauto_https disable_redirects\n\tstorage file_system {self.folder}\n\t# A token",
            ),
        )
        (self.folder / "Caddyfile").write_text(site)
        environment = {"XDG_CONFIG_HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder), "HOME": str(self.folder)}
        return [
            "/usr/bin/env",
            *(f"{name}={value}" for name, value in environment.items()),
            program,
            *("run", "--config", str(self.folder / "Caddyfile"), "--adapter", "caddyfile"),
        ]


class Haproxy(Proxy):
    def command(self) -> list[str]:
        program = require_program("haproxy", "haproxy")
        bundle = self.folder / "bundle.pem"
        bundle.write_text(self.certificate.read_text() + self.key.read_text())
        text = put(
            deployed("haproxy", self.upstreams),
            ("bind :443 ssl crt /etc/ssl/private/chat.example.pem", f"bind 127.0.0.1:{self.port} ssl crt {bundle}"),
            # The account and the limit of files are the test's: HAProxy takes two files for each of these connections.
            ("    user haproxy\n    group haproxy\n", ""),
            ("maxconn 20000", f"maxconn {MAX_CONNECTIONS}"),
        )
        (self.folder / "haproxy.cfg").write_text(text)
        return [program, "-db", "-f", str(self.folder / "haproxy.cfg")]
