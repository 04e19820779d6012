"""The wheel and the source distribution: what is in them, and that the wheel works where there is no checkout."""

import email
import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import pytest
import trio
from packaging.requirements import Requirement

from tests.support.blocks import ROOT, blocks
from tests.support.client import Api
from tests.support.server import Server, environment
from tools.supply_chain import LOCK, dependencies_of, read_lock

RUN = "import sys; from pulse_trio.program import main; sys.argv[0] = 'pulse-trio'; main()"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both distributions, by "wheel" and "sdist", built by the backend as pip does."""
    folder = tmp_path_factory.mktemp("dist")
    build = "import sys, hatchling.build as b; print(b.build_wheel(sys.argv[1])); print(b.build_sdist(sys.argv[1]))"
    command = [sys.executable, "-c", build, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=240)
    wheel, sdist = done.stdout.split()
    return {"wheel": folder / wheel, "sdist": folder / sdist}


@pytest.fixture(scope="module")
def installed(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables with which Python imports pulse_trio from the wheel, its packages as of this environment."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([*command, str(built["wheel"])], check=True, timeout=240)
    return environment(PYTHONPATH=str(folder))


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def run(variables: dict[str, str], program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=variables,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_an_index_page_has_all_that_it_shows(built: dict[str, Path]) -> None:
    found = metadata_of(built["wheel"])
    assert found["Author"] or found["Author-email"]
    assert found["License-Expression"] == "MIT"
    assert set(found.get_all("License-File") or []) == {"LICENSE", "NOTICE"}
    assert found["Keywords"]
    classifiers = found.get_all("Classifier") or []
    assert "Framework :: Trio" in classifiers
    page = found.get_payload()
    assert isinstance(page, str)
    targets = re.findall(r"\]\(([^)]*)\)", page)
    assert all(re.match(r"https?://|#", target) for target in targets), "a relative link is dead on an index page"


def test_the_wheel_holds_licences_documents_and_files_to_deploy(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as archive:
        names = {re.sub(r"^pulse_trio-[\d.]+\.", "", name) for name in archive.namelist()}
    for name in (
        "dist-info/licenses/LICENSE",
        "dist-info/licenses/NOTICE",
        "data/data/share/doc/pulse-trio/operations.md",
        "data/data/share/pulse-trio/deploy/nginx/pulse-trio.conf",
        "pulse_trio/_hypercorn.toml",
        "pulse_trio/py.typed",
    ):
        assert name in names
    assert not [name for name in names if name.startswith(("tests/", "tools/", "benchmarks/"))]


def test_the_source_distribution_is_the_checkout(built: dict[str, Path]) -> None:
    """All files of the repository are in it, and nothing that merely lies about."""
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout of git")
    assert set(listed.stdout.split("\n")) - {""} - names == set()
    assert {name for name in names if "__pycache__" in name or name.startswith((".venv", "build/"))} == set()


def test_help_and_version_work_from_the_wheel(installed: dict[str, str]) -> None:
    done = run(installed, RUN, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "serve" in done.stdout
    done = run(installed, "import pulse_trio; print(pulse_trio.__file__)")
    assert str(ROOT) not in done.stdout


async def test_the_service_works_from_the_wheel(installed: dict[str, str], database: str, tmp_path: Path) -> None:
    settings = {"DATABASE_URL": database, "PYTHONPATH": installed["PYTHONPATH"]}
    server = Server(settings, command=[sys.executable, "-c", RUN, "serve", "--port", "0"], cwd=tmp_path).wait_ready()
    try:
        with trio.fail_after(60):
            for path in ("/", "/docs", "/pulse-client.js", "/openapi.json", "/readyz"):
                assert (await Api(server.base_url).get(path)).status_code == 200, path
    finally:
        assert server.stop() == 0


def test_the_client_needs_only_the_packages_that_its_document_names(installed: dict[str, str]) -> None:
    (block,) = (block.text for block in blocks(ROOT / "docs" / "package.md") if "--no-deps" in block.text)
    written = [Requirement(text) for text in re.findall(r"'([^']+)'", block)]
    ours = {
        item.name: item.specifier
        for item in map(Requirement, metadata_of_requirements(installed))
        if item.name in {one.name for one in written}
    }
    for item in written:
        assert set(map(str, item.specifier)) <= set(map(str, ours[item.name])), item
    needed: set[str] = set()
    waiting = {item.name for item in written}
    while waiting:
        name = waiting.pop()
        needed.add(name)
        waiting |= dependencies_of(name) - needed
    others = {package.name.replace("-", "_") for package in read_lock(LOCK) if package.name not in needed}
    others |= {"jwt", "argon2", "yaml", "flask"}
    hidden = f"import sys; sys.modules.update(dict.fromkeys({sorted(others)!r}))\n"
    done = run(installed, hidden + "import pulse_trio.client, pulse_trio.terminal.commands")
    assert (done.returncode, done.stderr) == (0, "")
    done = run(installed, hidden + RUN, "send", "--help")
    assert (done.returncode, done.stderr) == (0, "")


def metadata_of_requirements(installed: dict[str, str]) -> list[str]:
    """Returns the requirements that the wheel states, those of its extra included."""
    done = run(installed, "from importlib.metadata import requires; print('\\n'.join(requires('pulse-trio')))")
    return done.stdout.splitlines()
