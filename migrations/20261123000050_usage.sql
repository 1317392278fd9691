-- What is used. This schema grows with traffic where `ledger` grows with money: every key here starts with account_id,
-- nothing refers to the ledger, and no transaction spans the two, so that it can have a server of its own.
CREATE SCHEMA usage;

-- The window of each account that runs, or the last one that ran. Whoever counts anything holds the account's row: what is
-- below of that account is written under this lock only. A row is never deleted, and made empty.
CREATE TABLE usage.windows (
    account_id uuid PRIMARY KEY,
    started_at timestamptz NOT NULL DEFAULT 'epoch',
    ended_at timestamptz NOT NULL DEFAULT 'epoch',
    requests_used bigint NOT NULL DEFAULT 0,
    tokens_used bigint NOT NULL DEFAULT 0,
    -- What reservations hold that nobody has settled, released or found expired.
    requests_reserved bigint NOT NULL DEFAULT 0,
    tokens_reserved bigint NOT NULL DEFAULT 0,
    -- Used beyond a reservation and beyond the hard limit.
    requests_excess bigint NOT NULL DEFAULT 0,
    tokens_excess bigint NOT NULL DEFAULT 0,
    -- The most that was included when anything was let in; NULL for everything.
    requests_included bigint DEFAULT 0,
    tokens_included bigint DEFAULT 0,
    -- No held reservation expires before; NULL where none is held.
    hold_expires_at timestamptz,
    -- Whether more was used than was included.
    overage boolean NOT NULL DEFAULT false,
    CONSTRAINT windows_are_spans CHECK (started_at <= ended_at),
    CONSTRAINT windows_count_up CHECK (requests_used >= 0 AND tokens_used >= 0 AND requests_reserved >= 0
        AND tokens_reserved >= 0 AND requests_excess >= 0 AND tokens_excess >= 0
        AND requests_included >= 0 AND tokens_included >= 0)
) WITH (fillfactor = 50); -- Counters change all the time, and no index has them: heap-only tuples.

-- Windows that are over and have overage: to be billed.
CREATE INDEX windows_overage_idx ON usage.windows (ended_at) WHERE overage;

-- Windows that are over and had something in them.
CREATE TABLE usage.closed_windows (
    account_id uuid NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    requests_used bigint NOT NULL,
    tokens_used bigint NOT NULL,
    requests_excess bigint NOT NULL,
    tokens_excess bigint NOT NULL,
    requests_included bigint,
    tokens_included bigint,
    requests_overage bigint GENERATED ALWAYS AS (greatest(requests_used - requests_included, 0)) STORED,
    tokens_overage bigint GENERATED ALWAYS AS (greatest(tokens_used - tokens_included, 0)) STORED,
    -- 'none' without overage; else 'due', then 'charging' with the key that the charge is tried with, then 'billed', or
    -- 'waived'. One window has one key for ever.
    billing text NOT NULL,
    billing_key bytea,
    billing_changed_at timestamptz,
    PRIMARY KEY (account_id, started_at),
    CONSTRAINT closed_windows_are_spans CHECK (started_at < ended_at),
    CONSTRAINT closed_windows_billing_known CHECK (billing IN ('none', 'due', 'charging', 'billed', 'waived')),
    CONSTRAINT closed_windows_bill_overage CHECK ((billing = 'none')
        = (requests_used <= coalesce(requests_included, requests_used) AND tokens_used <= coalesce(tokens_included, tokens_used))),
    CONSTRAINT closed_windows_key CHECK (octet_length(billing_key) = 32 AND (billing NOT IN ('charging', 'billed') OR billing_key IS NOT NULL))
);

CREATE INDEX closed_windows_unbilled_idx ON usage.closed_windows (ended_at) WHERE billing IN ('due', 'charging');

-- What was counted, once per event_id, with the answer that was given to it. In partitions by the month of recording, which
-- code makes ahead and drops. The key keeps an event_id from being counted twice in a month; across months, whoever counts
-- looks into the month before as well, under the account's lock.
CREATE TABLE usage.events (
    account_id uuid NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    -- The first day of the UTC month in which it was recorded.
    month date NOT NULL,
    recorded_at timestamptz NOT NULL,
    occurred_at timestamptz NOT NULL,
    requests integer NOT NULL,
    tokens integer NOT NULL,
    conversations integer NOT NULL,
    -- The meters of the answer; a limit is NULL where there is none, the others where they are 0.
    window_ended_at timestamptz NOT NULL,
    requests_used bigint NOT NULL,
    tokens_used bigint NOT NULL,
    requests_limit bigint,
    tokens_limit bigint,
    requests_hard_limit bigint,
    tokens_hard_limit bigint,
    requests_reserved bigint,
    tokens_reserved bigint,
    requests_overage bigint,
    tokens_overage bigint,
    PRIMARY KEY (account_id, event_id, month),
    CONSTRAINT events_count_up CHECK (requests >= 0 AND tokens >= 0 AND conversations >= 0)
) PARTITION BY RANGE (month);

-- Per account and UTC day.
CREATE TABLE usage.stats (
    account_id uuid NOT NULL,
    day date NOT NULL,
    requests bigint NOT NULL,
    conversations bigint NOT NULL,
    tokens bigint NOT NULL,
    PRIMARY KEY (account_id, day)
) WITH (fillfactor = 50);

-- Holds on a quota for usage whose size is not known yet.
CREATE TABLE usage.reservations (
    account_id uuid NOT NULL,
    id uuid NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    requests integer NOT NULL,
    tokens integer NOT NULL,
    made_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    -- 'held', then 'settled' or 'released'; 'expired' once somebody has taken the hold back, which may be settled still.
    state text NOT NULL DEFAULT 'held',
    ended_at timestamptz,
    -- What was used in the end, and how much of that was beyond the hold and the hard limit.
    settled_requests integer,
    settled_tokens integer,
    settled_conversations integer,
    excess_requests integer,
    excess_tokens integer,
    PRIMARY KEY (account_id, id),
    CONSTRAINT reservations_event_once UNIQUE (account_id, event_id),
    CONSTRAINT reservations_state_known CHECK (state IN ('held', 'settled', 'released', 'expired')),
    CONSTRAINT reservations_end CHECK ((state = 'held') = (ended_at IS NULL)),
    CONSTRAINT reservations_settled CHECK ((state = 'settled') = (settled_requests IS NOT NULL)
        AND (settled_requests IS NULL) = (settled_tokens IS NULL)
        AND (settled_requests IS NULL) = (settled_conversations IS NULL)
        AND (settled_requests IS NULL) = (excess_requests IS NULL)
        AND (settled_requests IS NULL) = (excess_tokens IS NULL))
);

CREATE INDEX reservations_held_idx ON usage.reservations (account_id, expires_at) WHERE state = 'held';
-- For removing old ones.
CREATE INDEX reservations_ended_idx ON usage.reservations (ended_at) WHERE state <> 'held';

-- Makes the partition of the month that begins at `month`, where there is none. Safe from several processes at once.
-- Attached rather than made in place, so that whoever counts in another month does not wait.
CREATE FUNCTION usage.make_partition(month date) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    name text := 'events_' || to_char(month, 'YYYY_MM');
BEGIN
    IF month <> date_trunc('month', month)::date THEN
        RAISE EXCEPTION 'a partition begins with a month';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('dues usage partitions', 0));
    IF to_regclass(format('usage.%I', name)) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE usage.%I (LIKE usage.events INCLUDING ALL)', name);
    EXECUTE format('ALTER TABLE usage.events ATTACH PARTITION usage.%I FOR VALUES FROM (%L) TO (%L)',
        name, month, (month + interval '1 month')::date);
    RETURN true;
END $$;

-- Drops the partitions of all months before `month`; gives how many.
CREATE FUNCTION usage.drop_partitions_before(month date) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    dropped integer := 0;
    partition regclass;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('dues usage partitions', 0));
    -- Dropping takes the whole table for an instant. Whoever counts must not queue behind a drop that waits.
    SET LOCAL lock_timeout = '2s';
    FOR partition IN
        SELECT i.inhrelid::regclass FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'usage.events'::regclass AND c.relname ~ '^events_\d{4}_\d{2}$'
          AND to_date(substr(c.relname, 8), 'YYYY_MM') < month
    LOOP
        EXECUTE format('DROP TABLE %s', partition);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;
