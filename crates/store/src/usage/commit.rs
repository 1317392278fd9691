//! One transaction for many orders.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use dues_domain::{
    ids::{AccountId, ReservationId},
    usage::{Meters, Quantity, Usage},
};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{
    Act, Event, Order, Outcome, Receipt, Refusal, Reservation, ReservationState, Settlement, partitions,
    rows::{self, Counted, EventRow, ReservationRow, WindowRow, limit, to_i32, unless_zero},
};
use crate::{StoreError, convert};

/// How far ahead of us the clock may be of whoever reports an event.
const AHEAD: TimeDelta = TimeDelta::minutes(5);

/// What does not depend on the account.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// How old an event may be.
    pub(super) late: TimeDelta,
}

/// Carries out `orders` one after the other, in one transaction. Each outcome is durable when this returns.
pub(super) async fn commit(
    pool: &PgPool,
    orders: &[Order],
    rules: Rules,
) -> Result<Vec<Outcome>, StoreError> {
    let mut made_partitions = false;
    loop {
        let mut tx = pool.begin().await?;
        let mut books = Books::default();
        let missing = books.lock_accounts(&mut tx, orders).await?;
        if !missing.is_empty() {
            // Without any lock, so that the order of locks stays that of the ids.
            tx.rollback().await?;
            open_accounts(pool, &missing).await?;
            continue;
        }
        books.read_events(&mut tx, orders).await?;
        books.read_reservations(&mut tx, orders).await?;
        let outcomes = orders.iter().map(|order| books.carry_out(order, rules)).collect();
        match books.write(&mut tx).await {
            Ok(()) => {}
            Err(StoreError::Database(sqlx::Error::Database(cause)))
                // No partition takes the row.
                if cause.code().as_deref() == Some("23514") && cause.constraint().is_none() && !made_partitions =>
            {
                tx.rollback().await?;
                made_partitions = true;
                for month in books.events.iter().map(|event| event.month).collect::<BTreeSet<_>>() {
                    partitions::make(pool, month).await?;
                }
                continue;
            }
            Err(error) => return Err(error),
        }
        tx.commit().await?;
        return Ok(outcomes);
    }
}

/// Makes the rows of accounts that have never used anything.
async fn open_accounts(pool: &PgPool, accounts: &[Uuid]) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO usage.windows (account_id) SELECT unnest($1::uuid[]) ORDER BY 1 ON CONFLICT DO NOTHING",
        accounts
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// An account, as the orders leave it.
#[derive(Debug)]
struct Book {
    usage: Usage,
    closed: Vec<Usage>,
    hold_expires_at: Option<DateTime<Utc>>,
    /// Whether holds have expired, so that the next one's time has to be looked up.
    expired: bool,
    changed: bool,
}

/// A reservation, as the orders leave it.
#[derive(Debug)]
struct Entered {
    reservation: Reservation,
    new: bool,
    changed: bool,
}

#[derive(Debug)]
struct NewEvent {
    account: Uuid,
    id: String,
    month: NaiveDate,
    recorded_at: DateTime<Utc>,
    counted: Counted,
}

/// What is known of the orders' accounts.
#[derive(Debug, Default)]
struct Books {
    accounts: BTreeMap<AccountId, Book>,
    known: HashMap<(AccountId, String), Counted>,
    events: Vec<NewEvent>,
    reservations: BTreeMap<(AccountId, ReservationId), Entered>,
    named: HashMap<(AccountId, String), ReservationId>,
    stats: BTreeMap<(AccountId, NaiveDate), [u64; 3]>,
}

impl Books {
    /// Locks the rows of the orders' accounts in the order of their ids; gives those that have none.
    async fn lock_accounts(
        &mut self,
        tx: &mut PgConnection,
        orders: &[Order],
    ) -> Result<Vec<Uuid>, StoreError> {
        let mut asked: Vec<_> = orders.iter().map(|order| order.account.as_uuid()).collect();
        asked.sort_unstable();
        asked.dedup();
        let found = sqlx::query_as!(
            WindowRow,
            "SELECT account_id, started_at, ended_at, requests_used, tokens_used, requests_reserved, tokens_reserved,
                    requests_excess, tokens_excess, requests_included, tokens_included, hold_expires_at
             FROM usage.windows WHERE account_id = ANY ($1) ORDER BY account_id FOR NO KEY UPDATE",
            &asked
        )
        .fetch_all(tx)
        .await?;
        for row in found {
            let book = Book {
                usage: row.usage()?,
                closed: Vec::new(),
                hold_expires_at: row.hold_expires_at,
                expired: false,
                changed: false,
            };
            self.accounts.insert(AccountId::from_uuid(row.account_id), book);
        }
        asked.retain(|id| !self.accounts.contains_key(&AccountId::from_uuid(*id)));
        Ok(asked)
    }

    /// Finds out which events were counted before. After the lock, in a statement of its own, so that it sees what
    /// whoever held the lock before has written.
    async fn read_events(&mut self, tx: &mut PgConnection, orders: &[Order]) -> Result<(), StoreError> {
        let (mut accounts, mut ids, mut months) = (Vec::new(), Vec::new(), BTreeSet::new());
        for order in orders {
            if let Act::Consume(event) = &order.act {
                accounts.push(order.account.as_uuid());
                ids.push(event.id.clone());
                months.extend(rows::months_around(order.now));
            }
        }
        let (Some(first), Some(last)) = (months.first(), months.last()) else { return Ok(()) };
        let found = sqlx::query_as!(
            EventRow,
            r#"SELECT e.account_id, e.event_id, e.occurred_at, e.requests, e.tokens, e.conversations, e.window_ended_at,
                      e.requests_used, e.tokens_used, e.requests_limit, e.tokens_limit, e.requests_hard_limit,
                      e.tokens_hard_limit, e.requests_reserved, e.tokens_reserved, e.requests_overage, e.tokens_overage
               FROM unnest($1::uuid[], $2::text[]) AS asked (account_id, event_id)
               -- LIMIT keeps the planner from any way but one look into the index for each.
               CROSS JOIN LATERAL (
                   SELECT * FROM usage.events e
                   WHERE e.account_id = asked.account_id AND e.event_id = asked.event_id
                     -- As a range, which partitions are pruned by when it runs.
                     AND e.month BETWEEN $3 AND $4
                   ORDER BY e.month DESC LIMIT 1
               ) AS e"#,
            &accounts,
            &ids,
            *first,
            *last,
        )
        .fetch_all(tx)
        .await?;
        for row in found {
            let counted = row.counted()?;
            self.known.insert((AccountId::from_uuid(row.account_id), row.event_id), counted);
        }
        Ok(())
    }

    /// Reads the reservations that the orders are about, and those whose time is over.
    async fn read_reservations(&mut self, tx: &mut PgConnection, orders: &[Order]) -> Result<(), StoreError> {
        let (mut of_ids, mut ids, mut of_names, mut names) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut latest: BTreeMap<AccountId, DateTime<Utc>> = BTreeMap::new();
        for order in orders {
            let account = order.account.as_uuid();
            match &order.act {
                Act::Consume(_) => {}
                Act::Reserve { event_id, .. } => {
                    of_names.push(account);
                    names.push(event_id.clone());
                }
                Act::Settle { id, .. } | Act::Release { id } => {
                    of_ids.push(account);
                    ids.push(id.as_uuid());
                }
            }
            let latest = latest.entry(order.account).or_insert(order.now);
            *latest = order.now.max(*latest);
        }
        latest.retain(|account, now| {
            let hold = self.accounts.get(account).and_then(|book| book.hold_expires_at);
            hold.is_some_and(|expires| expires <= *now)
        });
        if of_ids.is_empty() && of_names.is_empty() && latest.is_empty() {
            return Ok(());
        }
        let (of_expiry, until): (Vec<_>, Vec<_>) =
            latest.into_iter().map(|(account, now)| (account.as_uuid(), now)).unzip();
        let found = sqlx::query_as!(
            ReservationRow,
            r#"SELECT r.account_id AS "account_id!", r.id AS "id!", r.event_id AS "event_id!", r.requests AS "requests!",
                      r.tokens AS "tokens!", r.made_at AS "made_at!", r.expires_at AS "expires_at!", r.state AS "state!",
                      r.ended_at, r.settled_requests, r.settled_tokens, r.settled_conversations, r.excess_requests,
                      r.excess_tokens
               FROM unnest($1::uuid[], $2::uuid[]) AS asked (account_id, id)
               -- As with events; OFFSET 0 is as good a fence.
               CROSS JOIN LATERAL (
                   SELECT * FROM usage.reservations r WHERE r.account_id = asked.account_id AND r.id = asked.id OFFSET 0
               ) AS r
               UNION
               SELECT r.account_id, r.id, r.event_id, r.requests, r.tokens, r.made_at, r.expires_at, r.state, r.ended_at,
                      r.settled_requests, r.settled_tokens, r.settled_conversations, r.excess_requests, r.excess_tokens
               FROM unnest($3::uuid[], $4::text[]) AS asked (account_id, event_id)
               CROSS JOIN LATERAL (
                   SELECT * FROM usage.reservations r
                   WHERE r.account_id = asked.account_id AND r.event_id = asked.event_id OFFSET 0
               ) AS r
               UNION
               SELECT r.account_id, r.id, r.event_id, r.requests, r.tokens, r.made_at, r.expires_at, r.state, r.ended_at,
                      r.settled_requests, r.settled_tokens, r.settled_conversations, r.excess_requests, r.excess_tokens
               FROM unnest($5::uuid[], $6::timestamptz[]) AS over (account_id, until)
               CROSS JOIN LATERAL (
                   SELECT * FROM usage.reservations r
                   WHERE r.account_id = over.account_id AND r.state = 'held' AND r.expires_at <= over.until OFFSET 0
               ) AS r"#,
            &of_ids,
            &ids,
            &of_names,
            &names,
            &of_expiry,
            &until,
        )
        .fetch_all(tx)
        .await?;
        for row in found {
            let account = AccountId::from_uuid(row.account_id);
            let reservation = Reservation::try_from(row)?;
            self.named.insert((account, reservation.event_id.clone()), reservation.id);
            let entered = Entered { reservation, new: false, changed: false };
            self.reservations.insert((account, entered.reservation.id), entered);
        }
        Ok(())
    }

    fn carry_out(&mut self, order: &Order, rules: Rules) -> Outcome {
        self.expire(order);
        let (account, allowance, now) = (order.account, &order.allowance, order.now);
        // Every account was locked, or was opened and then locked.
        let book = self.accounts.get(&account).ok_or(Refusal::OutsideCalendar)?;
        let (mut usage, closed) =
            book.usage.at(allowance.anchor, now).map_err(|_| Refusal::OutsideCalendar)?;
        let full = |meter, usage: Usage| Refusal::Quota {
            meter,
            usage: Box::new(usage),
            meters: Box::new(usage.meters(allowance)),
        };
        match &order.act {
            Act::Consume(event) => {
                let key = (account, event.id.clone());
                if let Some(counted) = self.known.get(&key) {
                    return repeated(event, counted);
                }
                let occurred_at = timely(event, now, rules)?;
                usage.consume(event.quantity, allowance).map_err(|meter| full(meter, usage))?;
                let meters = usage.meters(allowance);
                let counted = Counted { occurred_at, quantity: event.quantity, meters };
                self.known.insert(key, counted);
                self.events.push(NewEvent {
                    account: account.as_uuid(),
                    id: event.id.clone(),
                    month: rows::month(now),
                    recorded_at: now,
                    counted,
                });
                self.count(account, occurred_at, event.quantity);
                self.enter(account, usage, closed, None);
                Ok(Receipt { meters, repeated: false, reservation: None })
            }
            Act::Reserve { id, event_id, quantity, expires_at } => {
                let meters = usage.meters(allowance);
                if let Some(known) = self.named.get(&(account, event_id.clone())) {
                    let known =
                        self.reservations.get(&(account, *known)).ok_or(Refusal::UnknownReservation)?;
                    return if known.reservation.quantity == *quantity {
                        Ok(told(meters, true, &known.reservation))
                    } else {
                        Err(Refusal::OtherWithSameId)
                    };
                }
                usage.reserve(*quantity, allowance).map_err(|meter| full(meter, usage))?;
                let reservation = Reservation {
                    id: *id,
                    event_id: event_id.clone(),
                    quantity: *quantity,
                    made_at: now,
                    expires_at: *expires_at,
                    state: ReservationState::Held,
                    ended_at: None,
                    settled: None,
                };
                let receipt = told(usage.meters(allowance), false, &reservation);
                self.named.insert((account, event_id.clone()), *id);
                self.reservations.insert((account, *id), Entered { reservation, new: true, changed: false });
                self.enter(account, usage, closed, Some(*expires_at));
                Ok(receipt)
            }
            Act::Settle { id, actual } => {
                let entered =
                    self.reservations.get_mut(&(account, *id)).ok_or(Refusal::UnknownReservation)?;
                let reservation = &mut entered.reservation;
                match (reservation.state, reservation.settled) {
                    (ReservationState::Held | ReservationState::Expired, _) => {}
                    (ReservationState::Settled, Some(settled)) if settled.actual == *actual => {
                        return Ok(told(usage.meters(allowance), true, reservation));
                    }
                    (ReservationState::Settled, _) => return Err(Refusal::OtherWithSameId),
                    (state @ ReservationState::Released, _) => return Err(Refusal::ReservationEnded(state)),
                }
                let freed = reservation.state == ReservationState::Expired;
                let excess = usage.settle(reservation.quantity, freed, *actual, allowance);
                reservation.settled = Some(Settlement { actual: *actual, excess });
                reservation.state = ReservationState::Settled;
                reservation.ended_at = Some(now);
                entered.changed = true;
                let receipt = told(usage.meters(allowance), false, reservation);
                self.count(account, now, *actual);
                self.enter(account, usage, closed, None);
                Ok(receipt)
            }
            Act::Release { id } => {
                let entered =
                    self.reservations.get_mut(&(account, *id)).ok_or(Refusal::UnknownReservation)?;
                let reservation = &mut entered.reservation;
                match reservation.state {
                    ReservationState::Held => {}
                    // It holds nothing any more, which is all that was wanted.
                    ReservationState::Released | ReservationState::Expired => {
                        return Ok(told(usage.meters(allowance), true, reservation));
                    }
                    state @ ReservationState::Settled => return Err(Refusal::ReservationEnded(state)),
                }
                usage.release(reservation.quantity);
                reservation.state = ReservationState::Released;
                reservation.ended_at = Some(now);
                entered.changed = true;
                let receipt = told(usage.meters(allowance), false, reservation);
                self.enter(account, usage, closed, None);
                Ok(receipt)
            }
        }
    }

    /// Takes back what reservations hold whose time is over.
    fn expire(&mut self, order: &Order) {
        let Some(book) = self.accounts.get_mut(&order.account) else { return };
        if book.hold_expires_at.is_none_or(|expires| order.now < expires) {
            return;
        }
        let least = (order.account, ReservationId::from_uuid(Uuid::nil()));
        let most = (order.account, ReservationId::from_uuid(Uuid::max()));
        for (_, entered) in self.reservations.range_mut(least..=most) {
            let reservation = &mut entered.reservation;
            if reservation.state == ReservationState::Held && reservation.expires_at <= order.now {
                reservation.state = ReservationState::Expired;
                reservation.ended_at = Some(reservation.expires_at);
                entered.changed = true;
                book.usage.release(reservation.quantity);
            }
        }
        book.expired = true;
        book.changed = true;
    }

    fn enter(
        &mut self,
        account: AccountId,
        usage: Usage,
        closed: Option<Usage>,
        expires_at: Option<DateTime<Utc>>,
    ) {
        let Some(book) = self.accounts.get_mut(&account) else { return };
        book.usage = usage;
        book.closed.extend(closed);
        book.hold_expires_at = book.hold_expires_at.into_iter().chain(expires_at).min();
        book.changed = true;
    }

    fn count(&mut self, account: AccountId, at: DateTime<Utc>, quantity: Quantity) {
        let of_day = self.stats.entry((account, at.date_naive())).or_default();
        for (sum, more) in of_day.iter_mut().zip([quantity.requests, quantity.conversations, quantity.tokens])
        {
            *sum = sum.saturating_add(more.into());
        }
    }

    async fn write(&mut self, tx: &mut PgConnection) -> Result<(), StoreError> {
        if self.accounts.values().any(|book| !book.closed.is_empty()) {
            let closed = self.accounts.iter_mut();
            let closed: Vec<_> = closed
                .flat_map(|(account, book)| {
                    mem::take(&mut book.closed).into_iter().map(|usage| (*account, usage))
                })
                .collect();
            keep_closed(tx, &closed).await?;
        }
        if self.accounts.values().any(|book| book.changed) {
            self.write_counters(tx).await?;
        }
        self.write_reservations(tx).await?;
        let expired: Vec<_> =
            self.accounts.iter().filter(|(_, book)| book.expired).map(|(id, _)| id.as_uuid()).collect();
        if !expired.is_empty() {
            sqlx::query!(
                "UPDATE usage.windows w SET hold_expires_at = (
                     SELECT min(r.expires_at) FROM usage.reservations r
                     WHERE r.account_id = w.account_id AND r.state = 'held')
                 WHERE w.account_id = ANY ($1)",
                &expired
            )
            .execute(tx)
            .await?;
        }
        Ok(())
    }

    /// Counters, statistics and events, in one statement.
    async fn write_counters(&self, tx: &mut PgConnection) -> Result<(), StoreError> {
        let mut w = WindowColumns::default();
        for (account, book) in self.accounts.iter().filter(|(_, book)| book.changed) {
            w.push(*account, book)?;
        }
        let mut s = StatColumns::default();
        for ((account, day), [requests, conversations, tokens]) in &self.stats {
            s.accounts.push(account.as_uuid());
            s.days.push(*day);
            s.requests.push(convert::to_i64(*requests)?);
            s.conversations.push(convert::to_i64(*conversations)?);
            s.tokens.push(convert::to_i64(*tokens)?);
        }
        let mut e = EventColumns::default();
        for event in &self.events {
            e.push(event)?;
        }
        sqlx::query!(
            "WITH counters AS (
                 -- Every row is there and locked. An upsert has one plan, where a join would have several.
                 INSERT INTO usage.windows AS w (account_id, started_at, ended_at, requests_used, tokens_used,
                     requests_reserved, tokens_reserved, requests_excess, tokens_excess, requests_included,
                     tokens_included, hold_expires_at, overage)
                 SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::bigint[], $5::bigint[],
                     $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
                     $12::timestamptz[], $13::boolean[])
                 ON CONFLICT (account_id) DO UPDATE
                 SET started_at = excluded.started_at, ended_at = excluded.ended_at,
                     requests_used = excluded.requests_used, tokens_used = excluded.tokens_used,
                     requests_reserved = excluded.requests_reserved, tokens_reserved = excluded.tokens_reserved,
                     requests_excess = excluded.requests_excess, tokens_excess = excluded.tokens_excess,
                     requests_included = excluded.requests_included, tokens_included = excluded.tokens_included,
                     hold_expires_at = excluded.hold_expires_at, overage = excluded.overage
             ), days AS (
                 INSERT INTO usage.stats AS s (account_id, day, requests, conversations, tokens)
                 SELECT * FROM unnest($14::uuid[], $15::date[], $16::bigint[], $17::bigint[], $18::bigint[])
                 ON CONFLICT (account_id, day) DO UPDATE
                 SET requests = s.requests + excluded.requests, tokens = s.tokens + excluded.tokens,
                     conversations = s.conversations + excluded.conversations
             )
             INSERT INTO usage.events (account_id, event_id, month, recorded_at, occurred_at, requests, tokens,
                 conversations, window_ended_at, requests_used, tokens_used, requests_limit, tokens_limit,
                 requests_hard_limit, tokens_hard_limit, requests_reserved, tokens_reserved, requests_overage,
                 tokens_overage)
             SELECT * FROM unnest($19::uuid[], $20::text[], $21::date[], $22::timestamptz[], $23::timestamptz[],
                 $24::integer[], $25::integer[], $26::integer[], $27::timestamptz[], $28::bigint[], $29::bigint[],
                 $30::bigint[], $31::bigint[], $32::bigint[], $33::bigint[], $34::bigint[], $35::bigint[],
                 $36::bigint[], $37::bigint[])",
            &w.accounts,
            &w.started_at,
            &w.ended_at,
            &w.requests_used,
            &w.tokens_used,
            &w.requests_reserved,
            &w.tokens_reserved,
            &w.requests_excess,
            &w.tokens_excess,
            &w.requests_included as &[Option<i64>],
            &w.tokens_included as &[Option<i64>],
            &w.hold_expires_at as &[Option<DateTime<Utc>>],
            &w.overage,
            &s.accounts,
            &s.days,
            &s.requests,
            &s.conversations,
            &s.tokens,
            &e.accounts,
            &e.ids,
            &e.months,
            &e.recorded_at,
            &e.occurred_at,
            &e.requests,
            &e.tokens,
            &e.conversations,
            &e.window_ended_at,
            &e.requests_used,
            &e.tokens_used,
            &e.requests_limit as &[Option<i64>],
            &e.tokens_limit as &[Option<i64>],
            &e.requests_hard_limit as &[Option<i64>],
            &e.tokens_hard_limit as &[Option<i64>],
            &e.requests_reserved as &[Option<i64>],
            &e.tokens_reserved as &[Option<i64>],
            &e.requests_overage as &[Option<i64>],
            &e.tokens_overage as &[Option<i64>],
        )
        .execute(tx)
        .await?;
        Ok(())
    }

    async fn write_reservations(&self, tx: &mut PgConnection) -> Result<(), StoreError> {
        // The last word on each: one that is made and settled in one transaction is made settled.
        let written = self.reservations.iter().filter(|(_, entered)| entered.new || entered.changed);
        let mut r = ReservationColumns::default();
        for ((account, _), entered) in written {
            r.push(*account, &entered.reservation)?;
        }
        if r.accounts.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "INSERT INTO usage.reservations (account_id, id, event_id, requests, tokens, made_at, expires_at, state,
                 ended_at, settled_requests, settled_tokens, settled_conversations, excess_requests, excess_tokens)
             SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::integer[], $5::integer[], $6::timestamptz[],
                 $7::timestamptz[], $8::text[], $9::timestamptz[], $10::integer[], $11::integer[], $12::integer[],
                 $13::integer[], $14::integer[])
             ON CONFLICT (account_id, id) DO UPDATE
             SET state = excluded.state, ended_at = excluded.ended_at, settled_requests = excluded.settled_requests,
                 settled_tokens = excluded.settled_tokens, settled_conversations = excluded.settled_conversations,
                 excess_requests = excluded.excess_requests, excess_tokens = excluded.excess_tokens",
            &r.accounts,
            &r.ids,
            &r.event_ids,
            &r.requests,
            &r.tokens,
            &r.made_at,
            &r.expires_at,
            &r.states,
            &r.ended_at as &[Option<DateTime<Utc>>],
            &r.settled_requests as &[Option<i32>],
            &r.settled_tokens as &[Option<i32>],
            &r.settled_conversations as &[Option<i32>],
            &r.excess_requests as &[Option<i32>],
            &r.excess_tokens as &[Option<i32>],
        )
        .execute(tx)
        .await?;
        Ok(())
    }
}

/// Keeps windows that are over and had something in them.
pub(super) async fn keep_closed(
    tx: &mut PgConnection,
    closed: &[(AccountId, Usage)],
) -> Result<(), StoreError> {
    let mut w = WindowColumns::default();
    for (account, usage) in closed {
        w.push_usage(*account, usage)?;
    }
    sqlx::query!(
        "INSERT INTO usage.closed_windows (account_id, started_at, ended_at, requests_used, tokens_used,
             requests_excess, tokens_excess, requests_included, tokens_included, billing)
         SELECT account_id, started_at, ended_at, requests_used, tokens_used, requests_excess, tokens_excess,
                requests_included, tokens_included, CASE WHEN overage THEN 'due' ELSE 'none' END
         FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::bigint[], $5::bigint[], $6::bigint[],
                     $7::bigint[], $8::bigint[], $9::bigint[], $10::boolean[])
             AS c (account_id, started_at, ended_at, requests_used, tokens_used, requests_excess, tokens_excess,
                   requests_included, tokens_included, overage)",
        &w.accounts,
        &w.started_at,
        &w.ended_at,
        &w.requests_used,
        &w.tokens_used,
        &w.requests_excess,
        &w.tokens_excess,
        &w.requests_included as &[Option<i64>],
        &w.tokens_included as &[Option<i64>],
        &w.overage,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// The answer to an event that was counted before.
fn repeated(event: &Event, counted: &Counted) -> Outcome {
    let same_time = event.occurred_at.is_none_or(|at| at == counted.occurred_at);
    if event.quantity == counted.quantity && same_time {
        Ok(Receipt { meters: counted.meters, repeated: true, reservation: None })
    } else {
        Err(Refusal::OtherWithSameId)
    }
}

/// When an event happened that has not been counted before.
fn timely(event: &Event, now: DateTime<Utc>, rules: Rules) -> Result<DateTime<Utc>, Refusal> {
    let at = event.occurred_at.unwrap_or(now);
    let age = now.signed_duration_since(at);
    if age > rules.late {
        Err(Refusal::TooLate)
    } else if age < -AHEAD {
        Err(Refusal::TooEarly)
    } else {
        Ok(at)
    }
}

fn told(meters: Meters, repeated: bool, reservation: &Reservation) -> Receipt {
    Receipt { meters, repeated, reservation: Some(reservation.clone()) }
}

/// `usage.windows` in columns.
#[derive(Default)]
struct WindowColumns {
    accounts: Vec<Uuid>,
    started_at: Vec<DateTime<Utc>>,
    ended_at: Vec<DateTime<Utc>>,
    requests_used: Vec<i64>,
    tokens_used: Vec<i64>,
    requests_reserved: Vec<i64>,
    tokens_reserved: Vec<i64>,
    requests_excess: Vec<i64>,
    tokens_excess: Vec<i64>,
    requests_included: Vec<Option<i64>>,
    tokens_included: Vec<Option<i64>>,
    hold_expires_at: Vec<Option<DateTime<Utc>>>,
    overage: Vec<bool>,
}

impl WindowColumns {
    fn push(&mut self, account: AccountId, book: &Book) -> Result<(), StoreError> {
        self.push_usage(account, &book.usage)?;
        self.hold_expires_at.push(book.hold_expires_at);
        Ok(())
    }

    fn push_usage(&mut self, account: AccountId, usage: &Usage) -> Result<(), StoreError> {
        let Usage { window, requests, tokens } = usage;
        self.accounts.push(account.as_uuid());
        self.started_at.push(window.start);
        self.ended_at.push(window.end);
        self.requests_used.push(convert::to_i64(requests.used)?);
        self.tokens_used.push(convert::to_i64(tokens.used)?);
        self.requests_reserved.push(convert::to_i64(requests.reserved)?);
        self.tokens_reserved.push(convert::to_i64(tokens.reserved)?);
        self.requests_excess.push(convert::to_i64(requests.excess)?);
        self.tokens_excess.push(convert::to_i64(tokens.excess)?);
        self.requests_included.push(limit(requests.included)?);
        self.tokens_included.push(limit(tokens.included)?);
        self.overage.push(usage.has_overage());
        Ok(())
    }
}

/// `usage.stats` in columns.
#[derive(Default)]
struct StatColumns {
    accounts: Vec<Uuid>,
    days: Vec<NaiveDate>,
    requests: Vec<i64>,
    conversations: Vec<i64>,
    tokens: Vec<i64>,
}

/// `usage.events` in columns.
#[derive(Default)]
struct EventColumns {
    accounts: Vec<Uuid>,
    ids: Vec<String>,
    months: Vec<NaiveDate>,
    recorded_at: Vec<DateTime<Utc>>,
    occurred_at: Vec<DateTime<Utc>>,
    requests: Vec<i32>,
    tokens: Vec<i32>,
    conversations: Vec<i32>,
    window_ended_at: Vec<DateTime<Utc>>,
    requests_used: Vec<i64>,
    tokens_used: Vec<i64>,
    requests_limit: Vec<Option<i64>>,
    tokens_limit: Vec<Option<i64>>,
    requests_hard_limit: Vec<Option<i64>>,
    tokens_hard_limit: Vec<Option<i64>>,
    requests_reserved: Vec<Option<i64>>,
    tokens_reserved: Vec<Option<i64>>,
    requests_overage: Vec<Option<i64>>,
    tokens_overage: Vec<Option<i64>>,
}

impl EventColumns {
    fn push(&mut self, event: &NewEvent) -> Result<(), StoreError> {
        let Counted { occurred_at, quantity, meters: Meters { requests, tokens } } = event.counted;
        self.accounts.push(event.account);
        self.ids.push(event.id.clone());
        self.months.push(event.month);
        self.recorded_at.push(event.recorded_at);
        self.occurred_at.push(occurred_at);
        self.requests.push(to_i32(quantity.requests)?);
        self.tokens.push(to_i32(quantity.tokens)?);
        self.conversations.push(to_i32(quantity.conversations)?);
        self.window_ended_at.push(requests.resets_at);
        self.requests_used.push(convert::to_i64(requests.used)?);
        self.tokens_used.push(convert::to_i64(tokens.used)?);
        self.requests_limit.push(limit(requests.limit)?);
        self.tokens_limit.push(limit(tokens.limit)?);
        self.requests_hard_limit.push(limit(requests.hard_limit)?);
        self.tokens_hard_limit.push(limit(tokens.hard_limit)?);
        self.requests_reserved.push(unless_zero(requests.reserved)?);
        self.tokens_reserved.push(unless_zero(tokens.reserved)?);
        self.requests_overage.push(unless_zero(requests.overage)?);
        self.tokens_overage.push(unless_zero(tokens.overage)?);
        Ok(())
    }
}

/// `usage.reservations` in columns.
#[derive(Default)]
struct ReservationColumns {
    accounts: Vec<Uuid>,
    ids: Vec<Uuid>,
    event_ids: Vec<String>,
    requests: Vec<i32>,
    tokens: Vec<i32>,
    made_at: Vec<DateTime<Utc>>,
    expires_at: Vec<DateTime<Utc>>,
    states: Vec<String>,
    ended_at: Vec<Option<DateTime<Utc>>>,
    settled_requests: Vec<Option<i32>>,
    settled_tokens: Vec<Option<i32>>,
    settled_conversations: Vec<Option<i32>>,
    excess_requests: Vec<Option<i32>>,
    excess_tokens: Vec<Option<i32>>,
}

impl ReservationColumns {
    fn push(&mut self, account: AccountId, reservation: &Reservation) -> Result<(), StoreError> {
        self.accounts.push(account.as_uuid());
        self.ids.push(reservation.id.as_uuid());
        self.event_ids.push(reservation.event_id.clone());
        self.requests.push(to_i32(reservation.quantity.requests)?);
        self.tokens.push(to_i32(reservation.quantity.tokens)?);
        self.made_at.push(reservation.made_at);
        self.expires_at.push(reservation.expires_at);
        self.states.push(reservation.state.as_str().to_owned());
        self.ended_at.push(reservation.ended_at);
        let settled = reservation.settled;
        let part = |of: fn(&Settlement) -> u32| settled.as_ref().map(|s| to_i32(of(s))).transpose();
        self.settled_requests.push(part(|s| s.actual.requests)?);
        self.settled_tokens.push(part(|s| s.actual.tokens)?);
        self.settled_conversations.push(part(|s| s.actual.conversations)?);
        self.excess_requests.push(part(|s| s.excess.requests)?);
        self.excess_tokens.push(part(|s| s.excess.tokens)?);
        Ok(())
    }
}
