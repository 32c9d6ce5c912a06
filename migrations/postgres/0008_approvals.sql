-- Payers' signed approvals (`erc20ApprovalGasSponsoring`) and what payers were given for their gas.

ALTER TABLE settlements
    -- permit2, upto: the payer's signed transaction that lets Permit2 move the token
    ADD COLUMN token_approval BYTEA CHECK (length(token_approval) BETWEEN 1 AND 1024),
    ADD CHECK (authorization_kind IN ('permit2', 'upto') OR token_approval IS NULL),
    ADD CHECK (token_permit IS NULL OR token_approval IS NULL);

ALTER TABLE attempts
    DROP CONSTRAINT attempts_kind_check,
    ADD CONSTRAINT attempts_kind_check CHECK (kind IN ('batch', 'top_up', 'noop'));

-- Written with the slot that makes the transfer, and never taken back: nobody gets one twice.
CREATE TABLE top_ups (
    chain_id      BIGINT NOT NULL,
    payer         BYTEA NOT NULL CHECK (length(payer) = 20),
    token         BYTEA NOT NULL CHECK (length(token) = 20),
    value         NUMERIC(78, 0) NOT NULL CHECK (value > 0),
    signer        BYTEA NOT NULL,
    nonce         BIGINT NOT NULL,
    settlement_id UUID NOT NULL,
    opened_at     BIGINT NOT NULL,
    PRIMARY KEY (chain_id, payer, token),
    FOREIGN KEY (chain_id, signer, nonce) REFERENCES slots DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX top_ups_by_time ON top_ups (chain_id, opened_at);
CREATE UNIQUE INDEX top_ups_by_slot ON top_ups (chain_id, signer, nonce);
