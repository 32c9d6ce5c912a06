-- Payments by delegation (ERC-7710). SQLite cannot change a CHECK, so the table is built anew, with its columns in their
-- old order.

CREATE TABLE new_settlements (
    id                 BLOB PRIMARY KEY CHECK (length(id) = 16),
    tenant             TEXT NOT NULL,
    version            INTEGER NOT NULL CHECK (version IN (1, 2)),
    chain_id           INTEGER NOT NULL,
    authority          BLOB NOT NULL CHECK (length(authority) = 20),
    payer              BLOB NOT NULL CHECK (length(payer) = 20),
    nonce              BLOB NOT NULL CHECK (length(nonce) = 32),
    asset              BLOB NOT NULL CHECK (length(asset) = 20),
    payee              BLOB NOT NULL CHECK (length(payee) = 20),
    value              TEXT NOT NULL,
    valid_after        TEXT NOT NULL,
    valid_before       TEXT NOT NULL,
    authorization_kind TEXT NOT NULL CHECK (authorization_kind IN ('eip3009', 'permit2', 'upto', 'erc7710')),
    signature_kind     TEXT NOT NULL CHECK (signature_kind IN ('ecdsa', 'contract', 'counterfactual')),
    -- counterfactual: what the contract will judge; erc7710: the permission context
    signature          BLOB NOT NULL,
    -- counterfactual: whom to call with what to make the payer
    factory            BLOB CHECK (length(factory) = 20),
    factory_calldata   BLOB,
    -- upto: the most that the payer allows; value is what moves
    permitted          TEXT,
    -- upto, erc7710: the one account that may settle it
    facilitator        BLOB CHECK (length(facilitator) = 20),
    -- permit2, upto: nonce, deadline and signature of the EIP-2612 permit that lets Permit2 move the token
    token_permit       BLOB CHECK (length(token_permit) = 129),
    -- what stands behind the calldata of the call that settles it (ERC-8021)
    attribution        BLOB CHECK (length(attribution) BETWEEN 1 AND 1024),
    digest             BLOB NOT NULL CHECK (length(digest) = 32),
    state              TEXT NOT NULL CHECK (state IN
        ('accepted', 'assigned', 'preconfirmed', 'unexplained', 'settled', 'settled_externally', 'failed', 'expired',
         'withdrawn')),
    tries              INTEGER NOT NULL DEFAULT 0 CHECK (tries >= 0),
    accepted_at        INTEGER NOT NULL,
    updated_at         INTEGER NOT NULL,
    -- assigned, preconfirmed, unexplained
    slot_signer        BLOB,
    slot_nonce         INTEGER,
    -- assigned: the newest attempt; preconfirmed: the one that was seen; unexplained: the one that carried it in vain;
    -- settled: the one that was mined; failed: the evidence, if there is one
    transaction_hash   BLOB CHECK (length(transaction_hash) = 32),
    -- failed
    reason             TEXT,
    detail             TEXT,
    -- settled, settled_externally
    block_number       INTEGER,
    block_hash         BLOB CHECK (length(block_hash) = 32),
    -- those and preconfirmed
    log_index          INTEGER,
    level              TEXT CHECK (level IN ('preconfirmed', 'included', 'safe', 'finalized')),
    -- settled, settled_externally
    gas_used           INTEGER,
    cost               TEXT,
    -- who delivers the success, and whether it was delivered
    delivery_request   BLOB,
    delivery_process   BLOB,
    delivered_at       INTEGER,
    -- the slot that it is or was in last: what a reorg of that slot's block takes it back to
    last_slot_signer   BLOB,
    last_slot_nonce    INTEGER,
    -- accepted: the process that has it in its queue
    queued_by          BLOB CHECK (length(queued_by) = 16),
    -- what a caller was told last; a reason stays when a success is told after it
    told               TEXT CHECK (told IN ('success', 'failure')),
    told_transaction   BLOB CHECK (length(told_transaction) = 32),
    told_level         TEXT CHECK (told_level IN ('preconfirmed', 'included', 'safe', 'finalized')),
    told_reason        TEXT,
    told_at            INTEGER,
    settled_at         INTEGER,
    CHECK ((state IN ('assigned', 'preconfirmed', 'unexplained')) = (slot_nonce IS NOT NULL)),
    CHECK ((state = 'failed') = (reason IS NOT NULL)),
    CHECK ((state IN ('settled', 'settled_externally')) = (block_number IS NOT NULL)),
    CHECK ((state IN ('preconfirmed', 'settled', 'settled_externally')) = (level IS NOT NULL)),
    CHECK ((last_slot_signer IS NULL) = (last_slot_nonce IS NULL)),
    CHECK ((told IS NULL) = (told_at IS NULL)),
    CHECK (told IS NOT 'success' OR (told_transaction IS NOT NULL AND told_level IS NOT NULL)),
    CHECK (told IS NOT 'failure' OR told_reason IS NOT NULL),
    CHECK ((signature_kind = 'counterfactual') = (factory IS NOT NULL)),
    CHECK ((factory IS NULL) = (factory_calldata IS NULL)),
    CHECK ((authorization_kind = 'upto') = (permitted IS NOT NULL)),
    CHECK ((authorization_kind IN ('upto', 'erc7710')) = (facilitator IS NOT NULL)),
    CHECK (authorization_kind IN ('permit2', 'upto') OR token_permit IS NULL),
    CHECK (authorization_kind = 'eip3009' OR factory IS NULL),
    CHECK (authorization_kind <> 'erc7710' OR signature_kind = 'contract'),
    -- The authority over what was accepted. Payer first: it serves look-ups by payer too.
    UNIQUE (payer, nonce, chain_id, authority)
) STRICT;
INSERT INTO new_settlements SELECT * FROM settlements;
DROP TABLE settlements;
ALTER TABLE new_settlements RENAME TO settlements;
CREATE INDEX settlements_by_tenant ON settlements (tenant, id);
CREATE INDEX settlements_unresolved ON settlements (chain_id, state, id)
    WHERE state IN ('accepted', 'assigned', 'preconfirmed', 'unexplained');
CREATE INDEX settlements_external ON settlements (transaction_hash) WHERE state = 'settled_externally';
CREATE INDEX settlements_external_unfinal ON settlements (chain_id, last_slot_signer, last_slot_nonce)
    WHERE state = 'settled_externally' AND level <> 'finalized';
CREATE TRIGGER settlements_accepted AFTER INSERT ON settlements BEGIN
    INSERT INTO outbox (settlement_id, tenant) VALUES (new.id, new.tenant);
END;
-- A level that rises is an event as well.
CREATE TRIGGER settlements_changed AFTER UPDATE OF state, level ON settlements
    WHEN old.state <> new.state OR old.level IS NOT new.level BEGIN
    INSERT INTO outbox (settlement_id, tenant) VALUES (new.id, new.tenant);
END;
-- The rule is teller_domain::invariants::compensation; a test compares the two.
CREATE TRIGGER settlements_compensated AFTER UPDATE OF state ON settlements
    WHEN old.told IS NOT NULL AND old.state <> new.state BEGIN
    INSERT INTO compensations (settlement_id, tenant, kind, written_at)
        SELECT new.id, new.tenant, kind, CAST(unixepoch('subsec') * 1000 AS INTEGER) FROM (SELECT CASE
            WHEN old.told = 'success' AND old.state NOT IN ('failed', 'expired') AND new.state IN ('failed', 'expired')
                THEN 'success_taken_back'
            WHEN old.told = 'success' AND old.state IN ('failed', 'expired')
                AND new.state IN ('settled', 'settled_externally') THEN 'success_restored'
            WHEN old.told = 'failure' AND old.state NOT IN ('settled', 'settled_externally')
                AND new.state IN ('settled', 'settled_externally') THEN 'failure_settled'
            WHEN old.told = 'failure' AND old.state IN ('settled', 'settled_externally')
                AND new.state NOT IN ('settled', 'settled_externally') THEN 'failure_restored'
        END AS kind) WHERE kind IS NOT NULL;
END;
CREATE TRIGGER settlements_settled AFTER UPDATE OF state ON settlements
    WHEN new.state IN ('settled', 'settled_externally') AND old.state NOT IN ('settled', 'settled_externally') BEGIN
    UPDATE settlements SET settled_at = new.updated_at WHERE id = new.id;
END;
