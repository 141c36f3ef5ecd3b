# SPDX-License-Identifier: Apache-2.0
"""The package itself: a zip of the run, waivers and statement, and a manifest with the hash of each file.

A hash shows that a file is not the one the manifest speaks of.  Whoever can write the package can write its
manifest too: publish the package's own id beside it.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pabench import __version__
from pabench.checks.spec_version import Spec, read_spec
from pabench.checks.summary import Claim, Line
from pabench.errors import UsageError, reason
from pabench.run.files import pretty
from pabench.run.read import JOURNAL, RUN_FILE, Run, read_run
from pabench.submission.waivers import Waiver, waived, waivers_of
from pabench.tables import read_toml
from pabench.text import shown_path

SCHEMA = 1
MANIFEST, STATEMENT, WAIVERS = "manifest.json", "statement.txt", "waivers.toml"
NEEDED = (RUN_FILE, JOURNAL, STATEMENT)
MAX_BYTES = 2**28
"""Of all files, unpacked."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Date of every file: the same run gives the same bytes."""
FULL_PROFILES = ("default", "deep")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What a package says.

    Attributes:
        name: of the file.
        id: SHA-256 of the manifest, in hex.
        spec: version of the specification.
        run: as read from it.
        statement: in the submitter's words.
        waivers: with their links.
        claims: subject to its profiles, waived failures counted as passed.
        waived: subject to question to waiver.
        versions: of pabench and of what it ran on.
    """

    name: str
    id: str
    spec: str
    run: Run
    statement: str
    waivers: tuple[Waiver, ...]
    claims: Mapping[str, tuple[Claim, ...]]
    waived: Mapping[str, Mapping[str, Waiver]]
    versions: Mapping[str, str]


def pack(run_folder: Path, *, spec: str, statement: str, waivers: Path | None) -> bytes:
    """Return the package of a run; the same files give the same bytes.

    Args:
        run_folder: of a whole conformance run under ``spec``.
        spec: version of the specification.
        statement: who submits what, in words.
        waivers: a TOML file of ``[[waiver]]``, or None.

    Raises:
        UsageError: the run is no such run, a waiver fits nothing, or a file breaks a rule.
    """
    run, asked = read_run(run_folder), read_spec(spec)
    _check_run(run, asked, shown_path(run_folder))
    if not statement.strip():
        raise UsageError("--statement: must say who submits what")
    files = {
        RUN_FILE: (run_folder / RUN_FILE).read_bytes(),
        JOURNAL: (run_folder / JOURNAL).read_bytes(),
        STATEMENT: (statement.strip() + "\n").encode(),
    }
    if waivers is not None:
        _claims(run, asked, _waivers(waivers))
        files[WAIVERS] = waivers.read_bytes()
    manifest = {
        "schema": SCHEMA,
        "spec": spec,
        "pabench": __version__,
        "files": {
            name: {"bytes": len(data), "sha256": sha256(data).hexdigest()} for name, data in files.items()
        },
    }
    files = {MANIFEST: pretty(manifest).encode(), **files}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name, EPOCH)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def unpack(package: Path, folder: Path) -> tuple[Submission | None, list[str]]:
    """Take a package apart in an empty folder, and return what it says and what is wrong with its files.

    Where a file is wrong there is no submission.

    Raises:
        UsageError: it is no package, or what it holds breaks a rule.
    """
    where = f"package {shown_path(package)}"
    files = _files(package, where)
    manifest = _manifest(files.get(MANIFEST), where)
    wrong = _wrong_files(manifest["files"], files)
    if wrong:
        return None, wrong
    for name, data in files.items():
        (folder / name).write_bytes(data)
    run, asked = read_run(folder), read_spec(manifest["spec"])
    _check_run(run, asked, where)
    waivers = _waivers(folder / WAIVERS) if WAIVERS in files else ()
    claims, used = _claims(run, asked, waivers)
    provenance = run.record.get("provenance", {})
    return (
        Submission(
            name=package.name,
            id=sha256(files[MANIFEST]).hexdigest(),
            spec=asked.version,
            run=run,
            statement=files[STATEMENT].decode("utf-8", "replace").strip(),
            waivers=waivers,
            claims=claims,
            waived=used,
            versions={"pabench": str(provenance.get("pabench")), **provenance.get("versions", {})},
        ),
        [],
    )


def _files(package: Path, where: str) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(package) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if len(set(names)) < len(names):
                raise UsageError(f"{where}: a name is there twice")
            known = {MANIFEST, WAIVERS, *NEEDED}
            if strange := [name for name in names if name not in known]:
                raise UsageError(f"{where}: {strange[0]!r} is none of {', '.join(sorted(known))}")
            if (size := sum(entry.file_size for entry in entries)) > MAX_BYTES:
                raise UsageError(f"{where}: unpacks to {size:,} bytes, must be at most {MAX_BYTES:,}")
            return {name: _unpacked(archive, name) for name in names}
    except OSError as error:
        raise UsageError(f"{where} cannot be read: {reason(error)}") from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise UsageError(f"{where}: no zip file: {error}") from None


def _unpacked(archive: zipfile.ZipFile, name: str) -> bytes:
    """What a file holds; nothing where it cannot be unpacked, which no manifest's hash is of."""
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError):
        return b""


def _manifest(data: bytes | None, where: str) -> dict[str, Any]:
    try:
        found = json.loads(data or b"")
        whole = found["schema"] == SCHEMA and isinstance(found["spec"], str)
        whole = whole and set(found["files"]) >= set(NEEDED)
        whole = whole and all(isinstance(one["sha256"], str) for one in found["files"].values())
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise UsageError(f"{where}: no {MANIFEST} of schema {SCHEMA} in it")
    return found  # type: ignore[no-any-return]


def _wrong_files(told: Mapping[str, Mapping[str, Any]], files: Mapping[str, bytes]) -> list[str]:
    wrong = [f"{name}: is missing" for name in told if name not in files]
    wrong += [f"{name}: is not in {MANIFEST}" for name in files if name not in told and name != MANIFEST]
    for name, about in told.items():
        if name in files and (found := sha256(files[name]).hexdigest()) != about["sha256"]:
            wrong.append(f"{name}: has SHA-256 {found[:16]}..., {MANIFEST} says {about['sha256'][:16]}...")
    return wrong


def _waivers(path: Path) -> tuple[Waiver, ...]:
    data = read_toml(path, what="waivers")
    entries = data.pop("waiver", None)
    if data or not isinstance(entries, list) or not entries:
        raise UsageError(f"waivers {shown_path(path)}: must hold [[waiver]] entries and nothing else")
    return waivers_of(entries, f"waivers {shown_path(path)}")


def _check_run(run: Run, spec: Spec, where: str) -> None:
    """Raise unless a run says all that a submission must."""
    config = run.record.get("config", {})
    for fine, why in (
        (run.kind == "conformance", f"is a run of {run.kind}, must be of conformance"),
        (run.record.get("status") == "finished" and not run.torn, "is not finished"),
        (config.get("spec") == spec.version, f"was made without --spec {spec.version}"),
        (
            config.get("profile") in FULL_PROFILES,
            f"was made with --profile {config.get('profile')}, must be default",
        ),
        (not config.get("select"), f"was made with -k {config.get('select')}, must ask everything"),
        (config.get("inputs_file") is None, "was made with --inputs, must draw what everybody draws"),
    ):
        if not fine:
            raise UsageError(f"{where}: {why}")


def _claims(
    run: Run, spec: Spec, waivers: Sequence[Waiver]
) -> tuple[dict[str, tuple[Claim, ...]], dict[str, dict[str, Waiver]]]:
    lines, all_waived = waived(run.lines, waivers)
    by_subject: dict[str, list[Line]] = {}
    for line in lines:
        if line.get("subject_kind") == "backend":
            by_subject.setdefault(str(line["subject"]), []).append(line)
    if not by_subject:
        raise UsageError(f"run {shown_path(run.path)}: judges no attention backend, of which profiles speak")
    return {name: spec.claims(found) for name, found in by_subject.items()}, {
        name: {check: waiver for (subject, check), waiver in all_waived.items() if subject == name}
        for name in by_subject
    }
