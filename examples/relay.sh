#!/usr/bin/env bash
# A subscriber without ether, beside a running `script/dev`: a new wallet that holds nothing but some of the token signs
# with `cast wallet sign`, and `curl` hands that to the relay, as the platform's server would. Nobody here has a key that
# could pay for gas: the devnet's keeper has.
#
# usage: examples/relay.sh [PLAN]     (a plan's name in devnet.json; default premium-month; DUES_DATA names another
#                                      directory than .dues)
set -euo pipefail
cd "$(dirname "$0")/.."
export plan=${1:-premium-month} manifest=${DUES_DATA:-.dues}/devnet.json

get() { python3 -c "import json,sys; d=json.load(open('$manifest')); print($1)"; }
field() { python3 -c "import json,sys; d=json.load(sys.stdin); print(d$1)"; }
cast() { node_modules/.bin/cast "$@"; }
api() { curl -sS --fail-with-body -H "Authorization: Bearer $api_key" -H 'Content-Type: application/json' "$api$1" "${@:2}"; }
node() { curl -sS -H 'Content-Type: application/json' "$rpc" \
    -d "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"$1\",\"params\":$2}" | field "['result']"; }
ether() { node eth_getBalance "[\"$payer\",\"latest\"]"; }

api=$(get "d['api_url']") api_key=$(get "d['api_key']") rpc=$(get "d['rpc_url']")

# The platform's user, and a wallet that has never held ether. On the devnet the token is there for the asking: the node
# mints some of it for the wallet, where elsewhere an exchange would send it.
account=$(api /v1/accounts -d "{\"external_id\": \"relayed-$RANDOM$RANDOM\"}")
key=$(cast wallet new --json | field "[0]['private_key']")
payer=$(cast wallet address "$key")
mint=$(printf '0x40c10f19%064s%064x' "${payer#0x}" 1000000000 | tr ' ' 0)
node eth_sendTransaction "[{\"from\":\"$(get "d['merchant']")\",\"to\":\"$(get "d['token']")\",\"data\":\"$mint\"}]" >/dev/null
echo "payer $payer has $(ether) wei of ether, and subscribes to $plan"

# typed KIND: the typed data of a permit, or of an intent, with which a wallet shows what is signed.
# body KIND SIGNATURES…: what the relay is asked for.
export payer account
write() {
    python3 - "$@" <<'PY'
import json, os, sys
d, account = json.load(open(os.environ["manifest"])), json.loads(os.environ["account"])
plan = next(p for p in d["plans"] if p["id"] == os.environ["plan"])
payer, deadline, allowance = os.environ["payer"], 2**40, 12 * int(plan["price_base_units"])
# A browser wallet would read these from the contract: `plan(planId)`.
unit, count = {"month": (1, 1), "year": (1, 12)}[plan["interval"]]
terms = {"merchant": d["merchant"], "token": d["token"], "price": int(plan["price_base_units"]), "unit": unit, "count": count,
         "trial": 0, "grace": 7 * 86400, "usageCap": 0}
def typed(name, contract, kind, types, message):
    fields = lambda text: [dict(zip(("type", "name"), f.split())) for f in text.split(",")]
    types = {k: fields(v) for k, v in types.items()}
    types["EIP712Domain"] = fields("string name,string version,uint256 chainId,address verifyingContract")
    return {"types": types, "primaryType": kind, "message": message, "domain": {
        "name": name, "version": "1", "chainId": d["chain_id"], "verifyingContract": contract}}
def typed_permit():
    return typed("Dev USD", d["token"], "Permit",
        {"Permit": "address owner,address spender,uint256 value,uint256 nonce,uint256 deadline"},
        {"owner": payer, "spender": d["contract"], "value": allowance, "nonce": 0, "deadline": deadline})
def typed_subscribe():
    return typed("Dues", d["contract"], "Subscribe",
        {"Subscribe": "address payer,uint32 planId,Terms terms,bytes32 ref,uint16 count,bool renews,uint256 nonce,uint256 deadline",
         "Terms": "address merchant,address token,uint96 price,uint8 unit,uint16 count,uint32 trial,uint32 grace,uint96 usageCap"},
        {"payer": payer, "planId": plan["onchain_id"], "terms": terms, "ref": account["reference"], "count": 0, "renews": True,
         "nonce": 0, "deadline": deadline})
def typed_cancel(subscription):
    return typed("Dues", d["contract"], "Cancel",
        {"Cancel": "address payer,uint256 id,bool atOnce,uint256 nonce,uint256 deadline"},
        {"payer": payer, "id": int(subscription), "atOnce": False, "nonce": 1, "deadline": deadline})
def body_subscribe(consent, permit):
    return {"intent": {"kind": "subscribe", "payer": payer, "onchain_plan_id": plan["onchain_id"],
                       "reference": account["reference"], "count": 0, "renews": True, "nonce": 0, "deadline": deadline},
            "signature": consent,
            "permit": {"kind": "eip2612", "value": allowance, "deadline": deadline, "signature": permit}}
def body_cancel(consent, subscription):
    return {"intent": {"kind": "cancel", "onchain_id": subscription, "at_once": False, "nonce": 1, "deadline": deadline},
            "signature": consent}
print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
PY
}
sign() { cast wallet sign --private-key "$key" --data "$1"; }

# mined ANSWER: waits until it is in a block.
mined() {
    local relayed=$1
    for _ in $(seq 100); do
        case "$(field "['status']" <<<"$relayed")" in
            mined) break ;;
            queued | sending) sleep 0.1 ;;
            *) break ;;
        esac
        relayed=$(api "/v1/relay/$(field "['id']" <<<"$relayed")")
    done
    python3 -c "import json,sys; d=json.load(sys.stdin); print(d['status'], 'in block', d['block_number'], 'for', d['gas_used'], 'gas of the relay\'s')" <<<"$relayed"
}
# entitled CONDITION: waits until the entitlement is as it says.
entitled() {
    for _ in $(seq 100); do
        answer=$(api "/v1/accounts/$(field "['id']" <<<"$account")/entitlements")
        [ "$(field "$1" <<<"$answer")" = "$2" ] && return
        sleep 0.1
    done
    echo "the entitlement does not follow" >&2
    exit 1
}

consent=$(sign "$(write typed_subscribe)") permit=$(sign "$(write typed_permit)")
mined "$(api /v1/relay -d "$(write body_subscribe "$consent" "$permit")")"
entitled "['tier']" "${plan%%-*}"
python3 -m json.tool <<<"$answer"

subscription=$(field "['source']['onchain_id']" <<<"$answer")
consent=$(sign "$(write typed_cancel "$subscription")")
mined "$(api /v1/relay -d "$(write body_cancel "$consent" "$subscription")")"
entitled "['cancel_at_period_end']" True
echo "subscription $subscription ends with its paid time, and the payer still has $(ether) wei of ether"
