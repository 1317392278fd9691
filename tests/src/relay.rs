//! What payers sign, as a platform's server hands it in.

use alloy::{
    hex,
    primitives::{B256, U256},
    signers::local::PrivateKeySigner,
};
use dues_chain::contract::{Dues, IDues};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{Answer, Api, Chain, SOON, Stack, eventually};

impl Chain {
    /// The body of a request that subscribes `payer`, who signs it.
    pub async fn relayed_subscribe(
        &self,
        payer: &PrivateKeySigner,
        plan: u32,
        reference: B256,
        nonce: u64,
    ) -> Value {
        self.relayed(payer, Self::intent(plan, reference, nonce)).await
    }

    /// The same of any intent to subscribe.
    pub async fn relayed(&self, payer: &PrivateKeySigner, intent: IDues::SubscribeIntent) -> Value {
        let Dues::subscribeForCall { intent, signature } = self.sign_intent(payer, intent).await;
        json!({
            "chain_id": self.id,
            "intent": {
                "kind": "subscribe", "payer": intent.payer, "onchain_plan_id": intent.planId,
                "reference": intent.r#ref, "count": intent.count, "renews": intent.renews,
                "nonce": intent.nonce.to_string(), "deadline": intent.deadline.to_string(),
            },
            "signature": hex::encode_prefixed(&signature),
        })
    }

    /// The body of a request that changes a subscription.
    pub async fn relayed_change(
        &self,
        payer: &PrivateKeySigner,
        id: U256,
        plan: u32,
        count: u16,
        nonce: u64,
    ) -> Value {
        let (nonce, deadline, max) = (U256::from(nonce), U256::MAX, u128::MAX);
        let intent = IDues::ChangeIntent { id, planId: plan, count, maxAmount: max, nonce, deadline };
        let Dues::changeForCall { intent, signature } = self.sign_change(payer, intent).await;
        json!({
            "intent": {
                "kind": "change", "onchain_id": intent.id.to_string(), "onchain_plan_id": intent.planId,
                "count": intent.count, "max_amount": intent.maxAmount.to_string(),
                "nonce": intent.nonce.to_string(), "deadline": intent.deadline.to_string(),
            },
            "signature": hex::encode_prefixed(&signature),
        })
    }

    /// The body of a request that cancels a subscription.
    #[must_use]
    pub fn relayed_cancel(&self, payer: &PrivateKeySigner, id: U256, at_once: bool, nonce: u64) -> Value {
        let intent =
            IDues::CancelIntent { id, atOnce: at_once, nonce: U256::from(nonce), deadline: U256::MAX };
        let Dues::cancelForCall { intent, signature } = self.sign_cancel(payer, intent);
        json!({
            "intent": {
                "kind": "cancel", "onchain_id": intent.id.to_string(), "at_once": intent.atOnce,
                "nonce": intent.nonce.to_string(), "deadline": intent.deadline.to_string(),
            },
            "signature": hex::encode_prefixed(&signature),
        })
    }

    /// The `permit` of such a request.
    pub async fn relayed_permit(&self, payer: &PrivateKeySigner, plan: u32, value: u64) -> Value {
        let Dues::permitCall { value, deadline, v, r, s, .. } = self.sign_permit(payer, plan, value).await;
        let signature = hex::encode_prefixed([r.as_slice(), s.as_slice(), &[v]].concat());
        json!({
            "kind": "eip2612", "value": value.to_string(), "deadline": deadline.to_string(), "signature": signature,
        })
    }
}

impl Api {
    /// Hands a signed intent in, and waits as long for the simulation as the API does.
    pub async fn relay(&self, body: &Value) -> Answer {
        self.post("/v1/relay", body).await
    }

    /// The same without waiting.
    pub async fn relay_and_go(&self, body: &Value) -> Answer {
        let request = self.request(Method::POST, "/v1/relay").header("prefer", "wait=0");
        Answer::to(request.bearer_auth(self.key()).json(body)).await
    }
}

impl Stack {
    /// Waits until a signed intent that `answer` names has `status`, and gives it.
    pub async fn relayed_becomes(&self, answer: &Answer, status: &str) -> Value {
        let location = answer.headers["location"].to_str().unwrap().to_owned();
        eventually(SOON, &format!("{location} is {status}"), || async {
            let row = self.api.get(&location).await.ok();
            if row["status"] == status { Ok(row) } else { Err(row.to_string()) }
        })
        .await
    }

    /// Hands a signed intent in that is carried out, and gives what became of it.
    pub async fn relay(&self, body: &Value) -> Value {
        let answer = self.api.relay(body).await;
        assert!(matches!(answer.status, 200 | 202), "{answer:?}");
        self.relayed_becomes(&answer, "mined").await
    }
}
