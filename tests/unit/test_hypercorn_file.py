"""The operator's file with Hypercorn's settings: read over the packaged one, and checked."""

import logging
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pulse_trio.edge.server import load_certificate, renew_certificate
from pulse_trio.errors import LaunchError
from pulse_trio.hypercorn_file import read_config, warn_of_unused
from tests.support.certificate import make_certificate


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "own.toml"


def test_what_the_file_omits_is_as_packaged(file: Path) -> None:
    file.write_text("keep_alive_timeout = 30\n")
    config, packaged = read_config(file, None, None), read_config(None, None, None)
    assert (config.keep_alive_timeout, packaged.keep_alive_timeout) == (30, 15)
    for name in ("bind", "alpn_protocols", "include_server_header", "websocket_ping_interval", "read_timeout"):
        assert getattr(config, name) == getattr(packaged, name)


@pytest.mark.parametrize(
    ("host", "port", "bind"),
    [
        (None, None, ["127.0.0.1:9000", "[::1]:9000"]),
        ("0.0.0.0", None, ["0.0.0.0:8000"]),
        (None, 8080, ["127.0.0.1:8080"]),
        ("::", 8080, ["[::]:8080"]),
    ],
)
def test_host_and_port_win_over_the_file(file: Path, host: str | None, port: int | None, bind: list[str]) -> None:
    file.write_text('bind = ["127.0.0.1:9000", "[::1]:9000"]\n')
    assert read_config(file, host, port).bind == bind


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("cert_file = 'x'", ["no setting cert_file", "certfile"]),
        ("log = 'x'", ["no setting log"]),
        ("_bind = ['x']", ["no setting _bind"]),
        ("keep_alive_timeout = 'long'", ["keep_alive_timeout must be a number"]),
        ("include_server_header = 1", ["include_server_header must be true or false"]),
        ("backlog = true", ["backlog must be a whole number"]),
        ("certfile = 1", ["certfile must be a string"]),
        ("bind = 8000", ["bind must be a string or a list"]),
        ("bind = ", ["not valid TOML"]),
        ("certfile = 'here.pem'", ["both certfile and keyfile"]),
        ("certfile = 'here.pem'\nkeyfile = 'there.pem'", ["here.pem cannot be read", "No such file"]),
    ],
)
def test_a_mistake_in_the_file_is_refused_by_its_name(file: Path, text: str, parts: list[str]) -> None:
    file.write_text(text)
    with pytest.raises(LaunchError) as caught:
        read_config(file, None, None)
    assert "\n" not in str(caught.value)
    for part in [str(file), *parts]:
        assert part in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(LaunchError, match=f"{path} cannot be read: {reason}"):
            read_config(path, None, None)


def test_a_key_of_another_certificate_is_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    certificate, _ = make_certificate(tmp_path)
    _, key = make_certificate(tmp_path / "other")
    file.write_text(f"certfile = '{certificate}'\nkeyfile = '{key}'\n")
    with pytest.raises(LaunchError, match="KEY_VALUES_MISMATCH"):
        load_certificate(read_config(file, None, None))


def test_a_certificate_that_was_renewed_is_read_again(file: Path, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    file.write_text(f"certfile = '{certificate}'\nkeyfile = '{key}'\n")
    config = read_config(file, None, None)
    load_certificate(config)
    first = config.create_ssl_context()
    renew_certificate(config)
    second = config.create_ssl_context()
    assert second is not first
    assert config.create_ssl_context() is second
    key.unlink()
    with capture_logs() as logged:
        renew_certificate(config)
    assert [line["event"] for line in logged] == ["certificate not read again"]
    assert config.create_ssl_context() is second


def test_settings_of_hypercorns_own_command_are_named(file: Path) -> None:
    file.write_text("workers = 4\nworker_class = 'asyncio'\nuse_reloader = true\n")
    with capture_logs() as logged:
        warn_of_unused(file)
    assert [line["settings"] for line in logged] == [["use_reloader", "worker_class", "workers"]]


def test_an_access_log_on_standard_output_goes_into_the_log(file: Path) -> None:
    file.write_text("accesslog = '-'\n")
    target = read_config(file, None, None).accesslog
    assert isinstance(target, logging.Logger)
    assert target.handlers == []


def test_a_file_of_the_folder_that_is_not_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with capture_logs() as logged:
        warn_of_unused(None)
        assert not logged
        Path("hypercorn.toml").write_text("")
        Path("other.toml").write_text("")
        warn_of_unused(Path("other.toml"))
        assert not logged
        warn_of_unused(None)
    assert [line["use"] for line in logged] == ["--config hypercorn.toml"]
    os.unlink("hypercorn.toml")
    os.symlink(Path(__file__).parents[2] / "hypercorn.toml", "hypercorn.toml")  # the packaged one
    with capture_logs() as logged:
        warn_of_unused(None)
    assert not logged
