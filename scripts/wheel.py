#!/usr/bin/env python3
"""Makes a Python wheel that carries the program: `pip install` puts it beside python itself.

A wheel is a zip archive with the program, its metadata and a list of digests. The entries are in a
fixed order with a fixed date, so the same program gives the same bytes.
"""

import argparse
import base64
import hashlib
import os
import pathlib
import time
import zipfile

# README and the documents that its links name.
DOCUMENTS = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs", "deploy"]
SUMMARY = "Exactly-once word counts of line streams on timely/differential dataflow"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=pathlib.Path, required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--tag", required=True, help="platform, such as manylinux_2_34_x86_64")
    parser.add_argument("--dist", type=pathlib.Path, required=True)
    given = parser.parse_args()

    name = f"wordtide-{given.version}"
    info, tag = f"{name}.dist-info", f"py3-none-{given.tag}"
    licences = ["LICENSE-MIT", "LICENSE-APACHE", "THIRD-PARTY-LICENSES"]
    metadata = [
        "Metadata-Version: 2.4",
        "Name: wordtide",
        f"Version: {given.version}",
        f"Summary: {SUMMARY}",
        "License-Expression: MIT OR Apache-2.0",
        *(f"License-File: {licence}" for licence in licences),
        "Requires-Python: >=3.7",
        "Description-Content-Type: text/markdown",
        "",
        "The documents that this page links are in `share/doc/wordtide` of the Python environment.\n",
        pathlib.Path("README.md").read_text(encoding="utf-8"),
    ]
    wheel = ["Wheel-Version: 1.0", "Generator: wordtide", "Root-Is-Purelib: false", f"Tag: {tag}", ""]
    entries = [
        (f"{name}.data/scripts/wordtide", given.binary.read_bytes(), 0o755),
        (f"{info}/METADATA", "\n".join(metadata).encode(), 0o644),
        (f"{info}/WHEEL", "\n".join(wheel).encode(), 0o644),
    ]
    for licence in licences:
        entries.append((f"{info}/licenses/{licence}", pathlib.Path(licence).read_bytes(), 0o644))

    for place in DOCUMENTS:
        for path in sorted(file for file in [pathlib.Path(place), *pathlib.Path(place).rglob("*")] if file.is_file()):
            entries.append((f"{name}.data/data/share/doc/wordtide/{path}", path.read_bytes(), 0o644))

    record = []
    for path, content, _ in entries:
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record.append(f"{path},sha256={digest},{len(content)}\n")
    record.append(f"{info}/RECORD,,\n")
    entries.append((f"{info}/RECORD", "".join(record).encode(), 0o644))

    # A zip archive knows no year before 1980.
    epoch = max(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())), 315_532_800)
    date = time.gmtime(epoch)[:6]
    archive = given.dist / f"{name}-{tag}.whl"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        for path, content, mode in entries:
            entry = zipfile.ZipInfo(path, date)
            entry.external_attr = (0o100000 | mode) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(entry, content)


if __name__ == "__main__":
    main()
