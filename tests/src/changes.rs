//! What happens to a subscription after it began.

use std::time::Duration;

use alloy::{
    primitives::{B256, U256, aliases::U96},
    rpc::types::TransactionReceipt,
    signers::local::PrivateKeySigner,
};
use chrono::{DateTime, Utc};
use dues_chain::contract::Dues;

use crate::Chain;

impl Chain {
    /// Changes to another plan at once, paying one period of it.
    pub async fn change_now(&self, from: &PrivateKeySigner, id: U256, plan: u32) -> TransactionReceipt {
        let call = Dues::changeNowCall { id, planId: plan, count: 1, maxAmount: u128::MAX };
        self.execute(from, self.contract, &call).await
    }

    /// Changes to another plan with the next period.
    pub async fn schedule_change(&self, from: &PrivateKeySigner, id: U256, plan: u32) -> TransactionReceipt {
        self.execute(from, self.contract, &Dues::scheduleChangeCall { id, planId: plan }).await
    }

    /// Takes a scheduled change back.
    pub async fn revoke_change(&self, from: &PrivateKeySigner, id: U256) -> TransactionReceipt {
        self.execute(from, self.contract, &Dues::revokeChangeCall { id }).await
    }

    /// Pays for further periods.
    pub async fn prepay(&self, from: &PrivateKeySigner, id: U256, count: u16) -> TransactionReceipt {
        self.execute(from, self.contract, &Dues::prepayCall { id, count }).await
    }

    /// Subscribes for `count` periods, and for more where it `renews`.
    pub async fn subscribe_prepaid(
        &self,
        from: &PrivateKeySigner,
        plan: u32,
        reference: B256,
        count: u16,
        renews: bool,
    ) -> TransactionReceipt {
        let call = Dues::subscribePrepaidCall { planId: plan, r#ref: reference, count, renews };
        self.execute(from, self.contract, &call).await
    }

    /// Charges usage to a period, as the merchant.
    pub async fn charge_usage(&self, id: U256, period: u16, amount: u64, key: B256) -> TransactionReceipt {
        let call = Dues::chargeUsageCall { id, period, amount: U96::from(amount), key };
        self.execute(&self.merchant_wallet(), self.contract, &call).await
    }

    /// Pays back, as the merchant.
    pub async fn refund(&self, id: U256, amount: u128, key: B256) -> TransactionReceipt {
        self.execute(&self.merchant_wallet(), self.contract, &Dues::refundCall { id, amount, key }).await
    }

    /// When the paid time of a subscription ends.
    pub async fn paid_through(&self, id: U256) -> DateTime<Utc> {
        instant(self.dues().paidThrough(id).call().await.unwrap())
    }

    /// Charges a period `late` after it is due.
    pub async fn renew(&self, id: U256, late: Duration) -> TransactionReceipt {
        self.next_block_at((self.paid_through(id).await + late).timestamp()).await;
        self.charge(id).await
    }

    /// The time of a transaction's block.
    pub async fn time_of(&self, receipt: &TransactionReceipt) -> DateTime<Utc> {
        instant(self.block(receipt.block_number.unwrap().into()).await.header.timestamp)
    }
}

fn instant(seconds: u64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds.try_into().unwrap(), 0).unwrap()
}
