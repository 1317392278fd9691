#!/usr/bin/env python3
"""A platform's server, beside a running `script/dev`: docs/integrate.md as a program.

usage: examples/integrate.py      (Python 3.9 or newer, nothing else; DUES_DATA names another directory than .dues)
"""

import json
import os
import pathlib
import secrets
import subprocess
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEVNET = json.loads((pathlib.Path(os.environ.get("DUES_DATA", ROOT / ".dues")) / "devnet.json").read_text())


class Problem(Exception):
    """What the API answers when something is wrong: docs/problems.md."""

    def __init__(self, body):
        super().__init__(f"{body['code']}: {body['detail'] or body['title']}")
        self.body = body
        self.code = body["code"]


def dues(method, path, body=None):
    """Asks the API. Every request may be repeated, so that what went wrong for a moment is simply tried again."""
    for pause in (0.2, 1, 5, None):
        request = urllib.request.Request(DEVNET["api_url"] + path, method=method)
        request.add_header("Authorization", f"Bearer {DEVNET['api_key']}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code not in (429, 500, 503) or pause is None:
                raise Problem(json.load(error)) from None
            pause = float(error.headers.get("Retry-After", pause))
        except (urllib.error.URLError, TimeoutError):
            if pause is None:
                raise
        time.sleep(pause)


# --- the customer's side: a wallet, as a browser would have it -----------------------------------------------------------


def cast(*arguments):
    command = [str(ROOT / "node_modules/.bin/cast"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def wallet():
    """A new wallet with some ether and some of the devnet's token, which anybody may mint."""
    made = json.loads(cast("wallet", "new", "--json"))[0]
    rich = DEVNET["wallets"][0]["private_key"]
    send(rich, made["address"], "--value", "1ether")
    send(rich, DEVNET["token"], "mint(address,uint256)", made["address"], "1000000000")
    return made["private_key"]


def send(key, *arguments):
    # What it takes depends a little on the second that it happens in, so that an estimate may be just too low.
    sent = cast("send", "--json", "--rpc-url", DEVNET["rpc_url"], "--private-key", key, "--gas-limit", "300000", *arguments)
    if json.loads(sent)["status"] != "0x1":
        raise SystemExit(f"reverted: {sent}")


# --- the platform's side ---------------------------------------------------------------------------------------------------


def plan(name):
    return next(plan for plan in DEVNET["plans"] if plan["id"] == name)


def entitlements_until(user, tier):
    """A payment shows once its block is there: about a second on a devnet."""
    deadline = time.monotonic() + 30
    while True:
        answer = dues("GET", f"/v1/entitlements?external_id={user}")
        if answer["tier"] == tier:
            return answer
        if time.monotonic() > deadline:
            raise SystemExit(f"{user} is {answer['tier']}, and did not become {tier}")
        time.sleep(0.2)


def answer_a_question(user, request_id, tokens):
    """What the platform does for its user: nothing, unless the quota has room for it."""
    event = {"external_id": user, "event_id": request_id, "requests": 1, "tokens": tokens}
    left = dues("POST", "/v1/usage", event)["meters"]["tokens"]["remaining"]
    print(f"  {request_id}: answered with {tokens:,} tokens; {left:,} are left")


def try_to_answer(user, request_id, tokens):
    try:
        answer_a_question(user, request_id, tokens)
        return None
    except Problem as problem:
        if problem.code != "quota_exceeded":
            raise
        meter = problem.body["meters"][problem.body["meter"]]
        print(
            f"  {request_id}: no room for {tokens:,} {problem.body['meter']}: {meter['used']:,} of {meter['limit']:,} are used "
            f"until {meter['resets_at']}; enough would be: {', '.join(problem.body['upgrade_to']) or 'nothing on sale'}"
        )
        return problem.body["upgrade_to"]


user = f"user-{secrets.token_hex(4)}"
account = dues("POST", "/v1/accounts", {"external_id": user, "email": "ada@example.org"})
print(f"1. {user} has the account {account['id']}")
print(f"   and may what everybody may: {dues('GET', f'/v1/entitlements?external_id={user}')['tier']}")

print("2. on the free tier")
try_to_answer(user, "question-1", 4_000)
upgrade_to = try_to_answer(user, "question-2", 7_000)
assert upgrade_to == ["basic", "premium", "enterprise"], upgrade_to

print(f"3. {user} pays for {upgrade_to[0]} with a wallet")
key = wallet()
basic = plan(f"{upgrade_to[0]}-month")
send(key, DEVNET["token"], "approve(address,uint256)", DEVNET["contract"], "1000000000")
send(key, DEVNET["contract"], "subscribe(uint32,bytes32)", str(basic["onchain_id"]), account["reference"])
now = entitlements_until(user, "basic")
print(f"   block {now['source']['block_number']} says so: {now['tier']} until {now['valid_until']}, {now['source']['finality']}")

print("4. the same question again, by the same id")
assert try_to_answer(user, "question-2", 7_000) is None
# An answer that was lost is asked for again: it is counted once.
answer_a_question(user, "question-2", 7_000)

print("5. a question that is too much for basic")
upgrade_to = try_to_answer(user, "question-3", 600_000)
assert upgrade_to == ["premium", "enterprise"], upgrade_to

print(f"6. {user} upgrades to {upgrade_to[0]}, paying the difference")
premium, subscription = plan(f"{upgrade_to[0]}-month"), now["source"]["onchain_id"]
send(
    key, DEVNET["contract"], "changeNow(uint256,uint32,uint16,uint128)",
    subscription, str(premium["onchain_id"]), "1", premium["price_base_units"],
)  # fmt: skip
now = entitlements_until(user, "premium")
used = now["meters"]["tokens"]["used"]
assert used == 11_000, used
assert try_to_answer(user, "question-3", 600_000) is None

print("7. what was paid")
for row in reversed(dues("GET", f"/v1/accounts/{account['id']}/transactions")["data"]):
    print(f"   {row['occurred_at']}  {row['kind']} of {row['money']['amount']} {row['money']['currency']}  {row['tx_hash']}")
