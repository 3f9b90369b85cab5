#!/usr/bin/env python3
"""What no compiler checks: line lengths, banned calls and words, licences, what crates depend on, links,
that the map names every file and docs/operations.md every metric and flag.

Prints each finding as `path:line: what`, and exits 1 if there is one. Standard library only, Python 3.11 or newer.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
LINE_CHARS_MAX = 120
MAP = "docs/architecture.md"
# The map has a section for each of these, and names there each file that is not for tests alone.
MAPPED = [
    "proxy/src",
    "proxy/policy/src",
    "control-plane/src",
    "control-plane/api/src",
    "control-plane/xds/src",
    "control-plane/cli/src",
]

# What a crate must not know, however far down: docs/architecture.md, "Crates".
FORBIDDEN = {
    "weir-policy": ["tokio", "prost", "tonic", "hyper", "weir-api", "weir-xds"],
    "weir-api": ["tokio", "prost", "tonic", "hyper", "weir-policy", "weir-xds"],
    "weirctl": ["tokio", "prost", "tonic", "weir-control", "weir-proxy"],
    "weir-proxy": ["weir-api", "weir-control", "weir-test-mesh"],
    "weir-control": ["weir-proxy", "weir-test-mesh"],
}

# In Rust: (pattern, why). Words are broken so that this file passes its own check.
BANNED_CALLS = [
    (r"\btodo!", "nothing unfinished is landed"),
    (r"\bunimplemented!", "nothing unfinished is landed"),
    (r"\bdbg!", "for a terminal, not for a repository"),
    (r"#\[ignore\b", "a test that is not run shows nothing"),
    (r"\ballow\(dead_code\)", "what nobody uses is removed"),
    (r"\bunbounded_channel\b", "every queue has a bound"),
]
# Anywhere: paths of one machine and hosts of package registries, which belong into the users' own configuration.
BANNED_WORDS = [
    (r"(?<![\w.])/(?:work|root|home)/\w", "a path of one machine"),
    (r"pypi\." r"org|pythonhosted\." r"org|index\.crates\." r"io|static\.crates\." r"io", "the host of a registry"),
    (r"\bFIX" r"ME\b|\bTO" r"DO\b|\bXX" r"X\b", "do it, or say in docs/architecture.md what is missing"),
]
# Rust files whose `sleep` would be a test waiting for the clock.
TEST_FILE = re.compile(r"(^|/)tests?(/|\.rs$)|(^|/)tests/")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
CODE = re.compile(r"``.*?``|`[^`]*`")

findings = []


def find(path, line, what):
    findings.append(f"{path}:{line}: {what}")


def tracked():
    """The repository's files: those that git knows, and those that it would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=TOP, check=True, capture_output=True, text=True).stdout.splitlines()
    return sorted(name for name in set(names) if (TOP / name).is_file())


def check_text(name, text):
    rust = name.endswith(".rs")
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, why in BANNED_WORDS:
            if match := re.search(pattern, line):
                find(name, number, f"{match.group()!r}: {why}")
        if line != line.rstrip() and "/testdata/" not in name:
            find(name, number, "blanks at the end of the line")
        if "\t" in line:
            find(name, number, "a tab")
        if not rust:
            continue
        # rustfmt breaks code, and leaves comments and texts as they are: comments are looked at here.
        if len(line) > LINE_CHARS_MAX and line.lstrip().startswith("//"):
            find(name, number, f"{len(line)} characters; at most {LINE_CHARS_MAX} are right")
        for pattern, why in BANNED_CALLS:
            if match := re.search(pattern, line):
                find(name, number, f"{match.group()!r}: {why}")
        if TEST_FILE.search(name) and re.search(r"\bthread::sleep\(", line):
            find(name, number, "a test that waits for the clock: wait for an event")
    if text and not text.endswith("\n"):
        find(name, text.count("\n") + 1, "no newline at the end of the file")


def check_links(name, text):
    for number, line in enumerate(text.splitlines(), 1):
        for target in LINK.findall(CODE.sub("", line)):
            if "://" not in target and not (TOP / name).parent.joinpath(target).exists():
                find(name, number, f"a link to {target}, which is not there")


def test_modules(names):
    """Files that are compiled for tests alone: named by `#[cfg(test)] mod x;`, and what lies under them."""
    found = set()
    for name in names:
        path = TOP / name
        own = path.parent if path.name in ("lib.rs", "main.rs") else path.with_suffix("")
        for module in re.findall(r"#\[cfg\(test\)\]\s*(?:pub(?:\([^)]*\))?\s+)?mod\s+(\w+);", path.read_text()):
            found.add(str(own.relative_to(TOP) / module))
    return found


def check_map(names):
    text = (TOP / MAP).read_text() if (TOP / MAP).is_file() else ""
    sections, folder = {}, None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            folder = next((place for place in MAPPED if f"`{place}`" in line), None)
            if folder:
                sections[folder] = {}
        elif folder:
            for file in re.findall(r"`([\w/]+\.rs)`", line):
                sections[folder].setdefault(file, number)
    for place in MAPPED:
        rust = [name for name in names if name.startswith(place + "/") and name.endswith(".rs")]
        tests = test_modules(rust)
        if place not in sections:
            find(MAP, 1, f"no section for `{place}`")
            continue
        for name in rust:
            module = name.removesuffix(".rs")
            if any(module == test or module.startswith(test + "/") for test in tests):
                continue
            if name.removeprefix(place + "/") not in sections[place]:
                find(MAP, 1, f"the section for `{place}` does not name `{name.removeprefix(place + '/')}`")
        for file, number in sections[place].items():
            if not (TOP / place / file).is_file():
                find(MAP, number, f"`{file}` is not in {place}")
    # Elsewhere in the page, files go by their whole path.
    for number, line in enumerate(text.splitlines(), 1):
        for file in re.findall(r"`((?:proxy|control-plane|benches|examples)/[\w/.-]+\.(?:rs|proto|yaml))`", line):
            if not (TOP / file).is_file():
                find(MAP, number, f"`{file}` is not there")


def check_operations():
    """docs/operations.md names each metric on the golden page and each flag of an answer."""
    page = "docs/operations.md"
    text = (TOP / page).read_text() if (TOP / page).is_file() else ""
    metrics = (TOP / "proxy/src/testdata/metrics.txt").read_text()
    samples = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"^(weir_\w+)", metrics, re.MULTILINE)}
    record = (TOP / "proxy/src/record.rs").read_text()
    flags = set(re.findall(r'ResponseFlag::\w+ => "(\w+)"', record))
    for kind, names in (("metric", samples), ("flag", flags)):
        if not names:
            find(page, 1, f"no {kind} was found in the code: this check is blind")
        for name in sorted(names):
            if f"`{name}`" not in text:
                find(page, 1, f"does not name the {kind} `{name}`")


def licence_holds(expression, allowed):
    """Whether an SPDX expression can be met by allowed licences alone. `/` is an old way to write OR."""
    tokens = re.findall(r"\(|\)|[\w.+-]+", expression.replace("/", " OR "))
    position = 0

    def term():
        nonlocal position
        token = tokens[position]
        position += 1
        if token == "(":
            holds = either()
            position += 1
            return holds
        if position < len(tokens) and tokens[position] == "WITH":
            token = f"{token} WITH {tokens[position + 1]}"
            position += 2
        return token in allowed

    def both():
        nonlocal position
        holds = term()
        while position < len(tokens) and tokens[position] == "AND":
            position += 1
            holds = term() and holds
        return holds

    def either():
        nonlocal position
        holds = both()
        while position < len(tokens) and tokens[position] == "OR":
            position += 1
            holds = both() or holds
        return holds

    return bool(tokens) and either()


def check_dependencies():
    rules = tomllib.loads((TOP / "deny.toml").read_text())
    allowed = set(rules["licenses"]["allow"])
    banned = {ban["name"]: ban["reason"] for ban in rules["bans"]["deny"]}
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    metadata = json.loads(subprocess.run(command, cwd=TOP, check=True, stdout=subprocess.PIPE, text=True).stdout)
    for package in metadata["packages"]:
        named = f"{package['name']} {package['version']}"
        if package["name"] in banned:
            find("Cargo.lock", 1, f"{named} is banned: {banned[package['name']]}")
        if package["source"] and not licence_holds(package["license"] or "", allowed):
            find("Cargo.lock", 1, f"{named} has the licence {package['license']!r}, which deny.toml does not allow")
        if package["source"] and not package["source"].startswith("registry+"):
            find("Cargo.lock", 1, f"{named} does not come from a registry")
    check_graph(metadata)


def check_graph(metadata):
    names = {package["id"]: package["name"] for package in metadata["packages"]}
    uses = {
        node["id"]: [dep["pkg"] for dep in node["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
        for node in metadata["resolve"]["nodes"]
    }
    members = {names[member]: member for member in metadata["workspace_members"]}
    for crate, forbidden in FORBIDDEN.items():
        seen, waiting = set(), [members[crate]]
        while waiting:
            package = waiting.pop()
            if package not in seen:
                seen.add(package)
                waiting.extend(uses[package])
        for name in sorted({names[package] for package in seen} & set(forbidden)):
            find("docs/architecture.md", 1, f"{crate} must not know {name}, and depends on it")


def main():
    names = tracked()
    for name in names:
        # What a fuzzer begins with is as a peer sends it.
        if name in ("Cargo.lock", "LICENSE") or "/fuzz/corpus/" in name:
            continue
        try:
            text = (TOP / name).read_text()
        except UnicodeDecodeError:
            find(name, 1, "not UTF-8 text")
            continue
        check_text(name, text)
        if name.endswith(".md"):
            check_links(name, text)
    check_map(names)
    check_operations()
    check_dependencies()
    for finding in findings:
        print(finding)
    print(f"tidy: {len(names)} files, {len(findings)} findings")
    return 1 if findings else 0


sys.exit(main())
