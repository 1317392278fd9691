"""Fails where an operation of the document was never answered with success: its answers were not checked at all then."""

import collections
import json
import re
import sys
import urllib.parse

document = json.load(open(sys.argv[1]))
entries = json.load(open(sys.argv[2]))["log"]["entries"]

# What takes a wallet's signature (the end-to-end tests have one), and what would end the session that the others need.
NOT_HERE = {"POST /v1/relay", "GET /v1/relay/{relay_id}", "POST /api/session", "DELETE /api/session"}

patterns = {
    f"{method.upper()} {path}": re.compile(method.upper() + " " + re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(path)))
    for path, methods in document["paths"].items()
    for method in methods
}
statuses = collections.defaultdict(collections.Counter)
for entry in entries:
    url = urllib.parse.urlsplit(entry["request"]["url"])
    asked = f"{entry['request']['method']} {url.path}"
    for name, pattern in patterns.items():
        if pattern.fullmatch(asked):
            statuses[name][entry["response"]["status"]] += 1

never = [name for name in patterns if name not in NOT_HERE and not any(200 <= s < 300 for s in statuses[name])]
if never:
    sys.exit(f"never answered with success: {', '.join(never)}\n{ {name: dict(statuses[name]) for name in never} }")
