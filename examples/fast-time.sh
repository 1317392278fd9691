#!/usr/bin/env bash
# Renewals, an emptied wallet that is refilled in time, and one that is not: beside a running `script/dev --fast-time`,
# where a month passes in a minute. Takes about five minutes.
#
# usage: examples/fast-time.sh
set -euo pipefail
cd "$(dirname "$0")/.."

get() { python3 -c "import json; d=json.load(open('.dues/devnet.json')); print($1)"; }
cast() { node_modules/.bin/cast "$@"; }

export ETH_RPC_URL=$(get "d['rpc_url']")
api=$(get "d['api_url']") api_key=$(get "d['api_key']") dues=$(get "d['contract']") token=$(get "d['token']")
merchant=$(get "d['merchant']")
plan=$(get "next(p['onchain_id'] for p in d['plans'] if p['id'] == 'basic-month')")
rich=$(get "d['wallets'][0]['private_key']")

ask() { curl -sf -H "Authorization: Bearer $api_key" -H 'Content-Type: application/json' "$api$1" "${@:2}"; }
# entitlement ACCOUNT FIELD
entitlement() { ask "/v1/accounts/$1/entitlements" | python3 -c "import json,sys; print(json.load(sys.stdin)['$2'])"; }
# await WHAT ACCOUNT FIELD VALUE: until it is so
await() {
    for _ in $(seq 1500); do
        if [ "$(entitlement "$2" "$3")" = "$4" ]; then
            echo "$(entitlement "$2" as_of | cut -c1-16)  $1"
            return
        fi
        sleep 0.2
    done
    echo "in vain: $1" >&2
    exit 1
}
# charges ACCOUNT: how many there are in the ledger
charges() { ask "/v1/accounts/$1/transactions" | python3 -c "import json,sys; print(sum(t['kind'] == 'charge' for t in json.load(sys.stdin)['data']))"; }
await_charges() {
    for _ in $(seq 1500); do
        [ "$(charges "$1")" -lt "$2" ] || return 0
        sleep 0.2
    done
    echo "in vain: $2 charges" >&2
    exit 1
}
send() { cast send -q --private-key "$@"; }
fill() { send "$rich" "$token" 'mint(address,uint256)' "$1" 1000000000; }
empty() { send "$1" "$token" 'transfer(address,uint256)' "$merchant" "$(cast call "$token" 'balanceOf(address)(uint256)' "$2" | cut -d' ' -f1)"; }
# customer NAME: sets NAME, NAME_key and NAME_wallet
customer() {
    local account key wallet
    account=$(ask /v1/accounts -d "{\"external_id\": \"$1-$RANDOM$RANDOM\"}" | python3 -c "import json,sys; print(json.load(sys.stdin)['id'])")
    key=$(cast wallet new --json | python3 -c "import json,sys; print(json.load(sys.stdin)[0]['private_key'])")
    wallet=$(cast wallet address "$key")
    send "$rich" "$wallet" --value 1ether
    fill "$wallet"
    send "$key" "$token" 'approve(address,uint256)' "$dues" 100000000000
    printf -v "$1" %s "$account"
    printf -v "$1_key" %s "$key"
    printf -v "$1_wallet" %s "$wallet"
}
subscribe() { send "$2" "$dues" 'subscribe(uint32,bytes32)' "$plan" "0x00000000000000000000000000000000${1//-/}"; }

customer steady; customer late; customer gone
for name in steady late gone; do
    account=$name key=${name}_key
    subscribe "${!account}" "${!key}"
    await "$name has subscribed" "${!account}" tier basic
done
empty "$late_key" "$late_wallet"
empty "$gone_key" "$gone_wallet"
echo "the wallets of late and gone are empty"

await_charges "$steady" 2
await "steady was charged for a second month" "$steady" status active
await "late is past due, and keeps its access" "$late" status past_due
fill "$late_wallet"
await_charges "$late" 2
await "late was refilled within grace, charged, and is active" "$late" status active
await "gone has lapsed" "$gone" tier free
fill "$gone_wallet"
echo "gone has money again"
for month in 3 4; do
    await_charges "$steady" "$month"
    await "steady was charged for month $month" "$steady" status active
done
[ "$(charges "$gone")" = 1 ] && [ "$(entitlement "$gone" tier)" = free ]
echo "gone was not charged any more: what has lapsed needs a new consent"
subscribe "$gone" "$gone_key"
await "gone has subscribed anew" "$gone" tier basic
echo "charges: steady $(charges "$steady"), late $(charges "$late"), gone $(charges "$gone")"
