-- Reorgs, levels, lane modes, shared queues and what was told.

ALTER TABLE lanes ADD COLUMN mode TEXT NOT NULL DEFAULT 'active'
    CHECK (mode IN ('active', 'draining', 'frozen', 'thawing', 'rescuing'));

-- Lanes are shared out among the living processes that settle.
ALTER TABLE processes ADD COLUMN settles BOOLEAN NOT NULL DEFAULT false;

-- A closed slot's transaction is the attempt that was mined; NULL if a stranger's transaction was. Its level says how
-- sure the chain is of its block: a reorg reopens the slot until that is finalized.
ALTER TABLE slots ADD COLUMN level TEXT CHECK (level IN ('included', 'safe', 'finalized'));
UPDATE slots SET level = 'included' WHERE state = 'closed';
ALTER TABLE slots ADD CHECK ((state = 'closed') = (level IS NOT NULL));
CREATE INDEX slots_unfinal ON slots (chain_id, signer, nonce) WHERE level <> 'finalized';
CREATE INDEX slots_by_close ON slots (chain_id, closed_at) WHERE closed_at IS NOT NULL;

ALTER TABLE settlements
    -- the slot that it is or was in last: what a reorg of that slot's block takes it back to
    ADD COLUMN last_slot_signer BYTEA,
    ADD COLUMN last_slot_nonce  BIGINT,
    -- accepted: the process that has it in its queue
    ADD COLUMN queued_by        UUID,
    -- what a caller was told last; a reason stays when a success is told after it
    ADD COLUMN told             TEXT CHECK (told IN ('success', 'failure')),
    ADD COLUMN told_transaction BYTEA CHECK (length(told_transaction) = 32),
    ADD COLUMN told_level       TEXT CHECK (told_level IN ('preconfirmed', 'included', 'safe', 'finalized')),
    ADD COLUMN told_reason      TEXT,
    ADD COLUMN told_at          BIGINT;

-- Nothing of this is an event.
ALTER TABLE settlements DISABLE TRIGGER settlements_changed;
UPDATE settlements AS s SET last_slot_signer = last.signer, last_slot_nonce = last.nonce FROM (
    SELECT DISTINCT ON (p.settlement_id) p.settlement_id, p.signer, p.nonce
    FROM slot_payments AS p JOIN slots AS x USING (chain_id, signer, nonce)
    ORDER BY p.settlement_id, x.opened_at DESC, p.nonce DESC) AS last
    WHERE last.settlement_id = s.id;
UPDATE settlements SET last_slot_signer = slot_signer, last_slot_nonce = slot_nonce WHERE state = 'assigned';
-- Who had claimed a delivery was told, as far as the ledger knows.
UPDATE settlements SET told = 'success', told_transaction = transaction_hash, told_level = level,
    told_at = coalesce(delivered_at, updated_at)
    WHERE state IN ('settled', 'settled_externally') AND delivery_request IS NOT NULL;
ALTER TABLE settlements ENABLE TRIGGER settlements_changed;

ALTER TABLE settlements
    DROP CONSTRAINT settlements_state_check,
    DROP CONSTRAINT settlements_check,
    ADD CONSTRAINT settlements_state_check CHECK (state IN
        ('accepted', 'assigned', 'preconfirmed', 'unexplained', 'settled', 'settled_externally', 'failed', 'expired',
         'withdrawn')),
    ADD CHECK ((state IN ('assigned', 'preconfirmed', 'unexplained')) = (slot_nonce IS NOT NULL)),
    ADD CHECK ((state IN ('preconfirmed', 'settled', 'settled_externally')) = (level IS NOT NULL)),
    ADD CHECK ((last_slot_signer IS NULL) = (last_slot_nonce IS NULL)),
    ADD CHECK ((told IS NULL) = (told_at IS NULL)),
    ADD CHECK (told IS DISTINCT FROM 'success' OR (told_transaction IS NOT NULL AND told_level IS NOT NULL)),
    ADD CHECK (told IS DISTINCT FROM 'failure' OR told_reason IS NOT NULL);
DROP INDEX settlements_unresolved;
CREATE INDEX settlements_unresolved ON settlements (chain_id, state, id)
    WHERE state IN ('accepted', 'assigned', 'preconfirmed', 'unexplained');
CREATE INDEX settlements_external_unfinal ON settlements (chain_id, last_slot_signer, last_slot_nonce)
    WHERE state = 'settled_externally' AND level <> 'finalized';

-- Where what the chain says and what was told came to differ, or to agree again. Never changed, never removed.
CREATE SEQUENCE compensations_sequence;
CREATE TABLE compensations (
    sequence      BIGINT PRIMARY KEY,
    settlement_id UUID NOT NULL,
    tenant        TEXT NOT NULL,
    kind          TEXT NOT NULL CHECK (kind IN
        ('success_taken_back', 'success_restored', 'failure_settled', 'failure_restored')),
    written_at    BIGINT NOT NULL
);
CREATE INDEX compensations_by_settlement ON compensations (settlement_id, sequence);

-- The rule is teller_domain::invariants::compensation; a test compares the two.
CREATE FUNCTION compensation(told TEXT, was TEXT, becomes TEXT) RETURNS TEXT LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN told = 'success' AND was NOT IN ('failed', 'expired') AND becomes IN ('failed', 'expired')
            THEN 'success_taken_back'
        WHEN told = 'success' AND was IN ('failed', 'expired') AND becomes IN ('settled', 'settled_externally')
            THEN 'success_restored'
        WHEN told = 'failure' AND was NOT IN ('settled', 'settled_externally')
            AND becomes IN ('settled', 'settled_externally') THEN 'failure_settled'
        WHEN told = 'failure' AND was IN ('settled', 'settled_externally')
            AND becomes NOT IN ('settled', 'settled_externally') THEN 'failure_restored'
    END
$$;

-- As before, and: a level that rises is an event as well, and compensations are written under the same lock, because
-- their readers too go on from the newest sequence that they saw.
CREATE OR REPLACE FUNCTION tell_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NOT EXISTS (SELECT FROM changed) THEN
            RETURN NULL;
        END IF;
        PERFORM pg_advisory_xact_lock(hashtext(TG_TABLE_SCHEMA || '.outbox'));
        INSERT INTO outbox SELECT nextval('outbox_sequence'), id, tenant FROM changed;
    ELSE
        IF NOT EXISTS (SELECT FROM changed LEFT JOIN previous ON previous.id = changed.id
                       WHERE (previous.state, previous.level) IS DISTINCT FROM (changed.state, changed.level)) THEN
            RETURN NULL;
        END IF;
        PERFORM pg_advisory_xact_lock(hashtext(TG_TABLE_SCHEMA || '.outbox'));
        INSERT INTO outbox SELECT nextval('outbox_sequence'), changed.id, changed.tenant
            FROM changed LEFT JOIN previous ON previous.id = changed.id
            WHERE (previous.state, previous.level) IS DISTINCT FROM (changed.state, changed.level);
        INSERT INTO compensations
            SELECT nextval('compensations_sequence'), id, tenant, kind,
                (extract(epoch FROM clock_timestamp()) * 1000)::bigint
            FROM (SELECT changed.id, changed.tenant, compensation(previous.told, previous.state, changed.state) AS kind
                  FROM changed JOIN previous ON previous.id = changed.id
                  WHERE previous.told IS NOT NULL AND previous.state <> changed.state) AS compensated
            WHERE kind IS NOT NULL;
    END IF;
    PERFORM pg_notify('teller_settlements', '');
    RETURN NULL;
END $$;

-- What happens once in the life of a ledger.
CREATE TABLE milestones (
    name       TEXT PRIMARY KEY,
    reached_at BIGINT NOT NULL
);
