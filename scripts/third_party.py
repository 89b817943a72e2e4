#!/usr/bin/env python3
"""Lists what the program is made of beside its own code, from Cargo.lock and the sources of the crates.

  third_party.py licences [--check]   THIRD-PARTY-LICENSES: every crate in the program with the text of
                                      its licence; --check fails if the file is not up to date
  third_party.py sbom [FILE]          a bill of materials, CycloneDX 1.5, as JSON
  third_party.py check                holds licences, sources and bans of all crates against deny.toml;
                                      advisories need `cargo deny`

It needs cargo and python 3.11. The sources are those that cargo has fetched (`cargo fetch`).
"""

import argparse
import hashlib
import json
import pathlib
import re
import subprocess
import sys
import tomllib
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"
LICENCES = ROOT / "THIRD-PARTY-LICENSES"
# The files of a crate that hold the text of a licence.
NAMES = re.compile(r"^(licen[cs]e|copying|copyright|notice|unlicense)", re.IGNORECASE)
# Chosen in this order where a crate leaves the choice.
PREFERRED = ["MIT", "Apache-2.0", "BSD-3-Clause", "BSD-2-Clause", "ISC", "Zlib", "Unicode-3.0", "BSL-1.0"]


def metadata(*more):
    command = ["cargo", "metadata", "--format-version", "1", "--locked", *more]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)


def in_the_program(target="x86_64-unknown-linux-gnu"):
    """The crates that are linked into the program, or run to build it, without those of its tests."""
    found = metadata("--filter-platform", target)
    nodes = {node["id"]: node for node in found["resolve"]["nodes"]}
    root = found["resolve"]["root"]
    seen, open_ids = set(), [root]
    while open_ids:
        node = nodes[open_ids.pop()]
        for dependency in node["deps"]:
            kinds = {kind["kind"] for kind in dependency["dep_kinds"]}
            if kinds != {"dev"} and dependency["pkg"] not in seen and dependency["pkg"] != root:
                seen.add(dependency["pkg"])
                open_ids.append(dependency["pkg"])
    packages = {package["id"]: package for package in found["packages"]}
    order = lambda package: (package["name"], package["version"])
    return packages[root], sorted((packages[id] for id in seen), key=order), nodes


def texts(package):
    """The licence files of a crate, as (name, text)."""
    folder = pathlib.Path(package["manifest_path"]).parent
    found = [path for path in folder.iterdir() if path.is_file() and NAMES.match(path.name)]
    named = package.get("license_file")
    if named and (folder / named).is_file():
        found.append(folder / named)
    read = lambda path: path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n").strip()
    return sorted({(path.name, read(path)) for path in found})


def licences():
    root, packages, _ = in_the_program()
    crates, blocks, number_of = [], [], {}
    for package in packages:
        chosen = wanted(package["license"], texts(package))
        numbers = []
        for text in chosen:
            # The same text with another owner is another text; blanks do not count.
            key = hashlib.sha256(" ".join(text.split()).encode()).hexdigest()
            if key not in number_of:
                number_of[key] = len(blocks) + 1
                blocks.append(text)
            numbers.append(number_of[key])
        where = ", ".join(f"[{number}]" for number in numbers) or by(package)
        crates.append(f"{package['name']} {package['version']}: {package['license']}: {where}")
    lines = [
        "Licences of the libraries in the program wordtide.",
        "",
        "Made by `python3 scripts/third_party.py licences`. A crate that leaves the choice is used under the",
        "first licence of this list that it offers: " + ", ".join(PREFERRED) + ".",
        "",
        *crates,
    ]
    for number, text in enumerate(blocks, 1):
        lines += ["", "-" * 100, f"[{number}]", "", text]
    return "\n".join(lines) + "\n"


def by(package):
    """What stands for a text that the crate does not have."""
    authors = ", ".join(re.sub(r" *<[^>]*>", "", author) for author in package["authors"])
    return f"no text in the crate, by {authors}" if authors else "no text in the crate"


def wanted(expression, found):
    """The texts that belong to the licence that is used; all of them where that is not plain."""
    if "AND" not in expression:
        for licence in PREFERRED:
            if licence not in re.split(r"[ /()]+", expression):
                continue
            word = licence.split("-")[0].lower()
            chosen = [text for name, text in found if word in name.lower()]
            if chosen:
                return chosen
    return [text for _, text in found]


def spdx(expression):
    """The licence of a crate as an SPDX expression: a slash is an old way to write OR."""
    return expression.replace("/", " OR ")


def sbom():
    root, packages, nodes = in_the_program()
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    sums = {(entry["name"], entry["version"]): entry.get("checksum") for entry in lock}
    reference = lambda package: f"pkg:cargo/{package['name']}@{package['version']}"
    by_id = {package["id"]: package for package in [root, *packages]}

    def component(package, kind):
        entry = {
            "type": kind,
            "bom-ref": reference(package),
            "name": package["name"],
            "version": package["version"],
            "purl": reference(package),
            "licenses": [{"expression": spdx(package["license"])}],
        }
        if package.get("description"):
            entry["description"] = " ".join(package["description"].split())
        checksum = sums.get((package["name"], package["version"]))
        if checksum:
            entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        return entry

    dependencies = []
    for package in [root, *packages]:
        names = {
            reference(by_id[dependency["pkg"]])
            for dependency in nodes[package["id"]]["deps"]
            if dependency["pkg"] in by_id and {kind["kind"] for kind in dependency["dep_kinds"]} != {"dev"}
        }
        dependencies.append({"ref": reference(package), "dependsOn": sorted(names - {reference(package)})})
    lock_bytes = (ROOT / "Cargo.lock").read_bytes()
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        # The same dependencies have the same number.
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, hashlib.sha256(lock_bytes).hexdigest())}",
        "version": 1,
        "metadata": {"component": component(root, "application")},
        "components": [component(package, "library") for package in packages],
        "dependencies": dependencies,
    }


def is_allowed(expression, allowed):
    """Judges an SPDX expression: AND needs both sides, OR one of them."""
    tokens = re.findall(r"\(|\)|[^\s()]+", spdx(expression))

    def either():
        result = both()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            result = both() or result
        return result

    def both():
        result = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            result = one() and result
        return result

    def one():
        token = tokens.pop(0)
        if token == "(":
            result = either()
            tokens.pop(0)
            return result
        if tokens and tokens[0] == "WITH":
            token = f"{token} WITH {tokens[1]}"
            del tokens[:2]
        return token in allowed

    return either()


def check():
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    allowed, banned = set(rules["licenses"]["allow"]), {rule["crate"] for rule in rules["bans"]["deny"]}
    faults, seen = [], {}
    for target in rules["graph"]["targets"]:
        for package in metadata("--filter-platform", target, "--all-features")["packages"]:
            seen[package["id"]] = package
    used = set()
    for package in seen.values():
        name = f"{package['name']} {package['version']}"
        if not package["license"] or not is_allowed(package["license"], allowed):
            faults.append(f"{name}: licence {package['license']} is not allowed")
        used |= set(re.findall(r"[^\s()/]+", package["license"] or ""))
        if package["source"] not in (None, REGISTRY):
            faults.append(f"{name}: comes from {package['source']}")
        if package["name"] in banned:
            faults.append(f"{name}: is banned")
    for licence in sorted(allowed):
        if licence.split(" ")[0] not in used:
            faults.append(f"deny.toml allows {licence}, which no crate has")
    return faults, len(seen)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("licences").add_argument("--check", action="store_true")
    commands.add_parser("sbom").add_argument("file", nargs="?")
    commands.add_parser("check")
    given = parser.parse_args()
    if given.command == "licences":
        text = licences()
        if not given.check:
            LICENCES.write_text(text, encoding="utf-8")
        elif not LICENCES.is_file() or LICENCES.read_text(encoding="utf-8") != text:
            sys.exit("THIRD-PARTY-LICENSES is not up to date: python3 scripts/third_party.py licences")
    elif given.command == "sbom":
        text = json.dumps(sbom(), indent=1) + "\n"
        pathlib.Path(given.file).write_text(text) if given.file else print(text, end="")
    else:
        faults, crates = check()
        if faults:
            sys.exit("\n".join(faults))
        print(f"licences, sources and bans of {crates} crates are as deny.toml has them")


if __name__ == "__main__":
    main()
