#!/usr/bin/env bash
# A subscriber without native currency, beside a running `script/dev`: a new wallet gets some of the token, signs a
# permit and the consent, somebody else sends both in one transaction, and the API knows.
#
# usage: examples/relayed-subscribe.sh [PLAN]     (a plan's name in .dues/devnet.json; default premium-month)
set -euo pipefail
cd "$(dirname "$0")/.."
plan=${1:-premium-month}

get() { python3 -c "import json,sys; d=json.load(open('.dues/devnet.json')); print($1)"; }
cast() { node_modules/.bin/cast "$@"; }

export ETH_RPC_URL=$(get "d['rpc_url']")
api=$(get "d['api_url']") api_key=$(get "d['api_key']") dues=$(get "d['contract']") token=$(get "d['token']")
chain_id=$(get "d['chain_id']")
plan_id=$(get "next(p['onchain_id'] for p in d['plans'] if p['id'] == '$plan')")
relayer=$(get "d['wallets'][0]['private_key']")     # any account with native currency

# The platform's user, and a wallet that has never held native currency.
account=$(curl -sf -X POST "$api/v1/accounts" -H "Authorization: Bearer $api_key" -H 'Content-Type: application/json' \
    -d "{\"external_id\": \"relayed-$RANDOM$RANDOM\"}" | python3 -c "import json,sys; print(json.load(sys.stdin)['id'])")
key=$(cast wallet new --json | python3 -c "import json,sys; print(json.load(sys.stdin)[0]['private_key'])")
payer=$(cast wallet address "$key")
cast send -q --private-key "$relayer" "$token" 'mint(address,uint256)' "$payer" 1000000000

# The terms as the contract stores them: a wallet shows the same before it signs.
terms=$(cast call --json "$dues" 'plan(uint32)((address,uint96,address,uint8,uint16,uint32,uint32,bool,address,uint96))' "$plan_id")
export terms payer account dues token chain_id plan_id
eval "$(python3 - <<'PY'
import json, os, shlex
e = os.environ
token, price, payee, unit, count, trial, grace, retired, merchant, cap = json.loads(e["terms"])[0]
deadline, allowance = 2**40, 12 * int(price)
ref = "0x" + e["account"].replace("-", "").rjust(64, "0")
def typed(name, version, contract, kind, types, message):
    fields = lambda text: [dict(zip(("type", "name"), f.split())) for f in text.split(",")]
    types = {k: fields(v) for k, v in types.items()}
    types["EIP712Domain"] = fields("string name,string version,uint256 chainId,address verifyingContract")
    return json.dumps({"types": types, "primaryType": kind, "message": message, "domain": {
        "name": name, "version": version, "chainId": int(e["chain_id"]), "verifyingContract": contract}})
permit = typed("Dev USD", "1", e["token"], "Permit",
    {"Permit": "address owner,address spender,uint256 value,uint256 nonce,uint256 deadline"},
    {"owner": e["payer"], "spender": e["dues"], "value": allowance, "nonce": 0, "deadline": deadline})
consent = typed("Dues", "1", e["dues"], "Subscribe",
    {"Subscribe": "address payer,uint32 planId,Terms terms,bytes32 ref,uint16 count,bool renews,uint256 nonce,uint256 deadline",
     "Terms": "address merchant,address token,uint96 price,uint8 unit,uint16 count,uint32 trial,uint32 grace,uint96 usageCap"},
    {"payer": e["payer"], "planId": int(e["plan_id"]), "ref": ref, "count": 0, "renews": True, "nonce": 0,
     "deadline": deadline, "terms": {"merchant": merchant, "token": token, "price": int(price), "unit": int(unit),
     "count": int(count), "trial": int(trial), "grace": int(grace), "usageCap": int(cap)}})
for name, value in {"permit": permit, "consent": consent, "ref": ref, "deadline": deadline, "allowance": allowance}.items():
    print(f"{name}={shlex.quote(str(value))}")
PY
)"

p=$(cast wallet sign --private-key "$key" --data "$permit")
c=$(cast wallet sign --private-key "$key" --data "$consent")
permit_call=$(cast calldata 'permit(uint32,address,uint256,uint256,uint8,bytes32,bytes32)' "$plan_id" "$payer" "$allowance" \
    "$deadline" $((16#${p:130:2})) "0x${p:2:64}" "0x${p:66:64}")
subscribe_call=$(cast calldata 'subscribeFor((address,uint32,bytes32,uint16,bool,uint256,uint256),bytes)' \
    "($payer,$plan_id,$ref,0,true,0,$deadline)" "$c")

echo "payer $payer holds $(cast balance "$payer") wei and signs for $plan"
cast send --private-key "$relayer" "$dues" 'multicall(bytes[])' "[$permit_call,$subscribe_call]" |
    grep -E '^(status|gasUsed|transactionHash)'
echo "afterwards the payer still holds $(cast balance "$payer") wei"

for _ in $(seq 100); do
    answer=$(curl -sf "$api/v1/accounts/$account/entitlements" -H "Authorization: Bearer $api_key")
    case "$answer" in *'"tier":"free"'*) sleep 0.1 ;; *) break ;; esac
done
python3 -m json.tool <<<"$answer"
