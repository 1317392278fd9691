"""Makes a little data in the devnet of script/schemathesis, and says what is there in files for its dictionaries."""

import json
import pathlib
import sys
import urllib.request

work = pathlib.Path(sys.argv[1])
devnet = json.loads((work / "devnet/devnet.json").read_text())


# The wallet that the document's examples have: the devnet's first.
EXAMPLE = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


def post(path, body):
    headers = {"Authorization": f"Bearer {devnet['api_key']}", "Content-Type": "application/json"}
    request = urllib.request.Request(devnet["api_url"] + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def hold(number):
    body = {"external_id": "user-42", "event_id": f"hold-{number}", "requests": 1, "tokens": 5}
    return post("/v1/usage/reservations", body)["reservation"]["id"]


# The name that the document's examples have.
made = post("/v1/accounts", {"external_id": "user-42", "email": "ada@example.org"})
accounts = [made["id"]] + [wallet["account_id"] for wallet in devnet["wallets"]]
values = {
    "accounts": accounts,
    "owners": [wallet["account_id"] for wallet in devnet["wallets"] if wallet["address"] == EXAMPLE],
    "external_ids": ["user-42"],
    "wallets": [wallet["address"] for wallet in devnet["wallets"]],
    "reservations": [hold(number) for number in range(8)],
}
# Of an account that no other request names, as some end all sessions of one.
other = post("/v1/accounts", {"external_id": "user-43"})["id"]
(work / "session.txt").write_text(post(f"/v1/accounts/{other}/sessions", {"ttl_seconds": 3600})["token"])
for name, of in values.items():
    (work / f"{name}.txt").write_text("".join(json.dumps(value) + "\n" for value in of))
