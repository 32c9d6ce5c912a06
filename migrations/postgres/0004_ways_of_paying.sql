-- Ways of paying beside EIP-3009 by plain accounts: contract wallets, Permit2, upto.

ALTER TABLE settlements
    ADD COLUMN signature_kind   TEXT NOT NULL DEFAULT 'ecdsa'
        CHECK (signature_kind IN ('ecdsa', 'contract', 'counterfactual')),
    -- counterfactual: whom to call with what to make the payer; signature is what the contract will judge
    ADD COLUMN factory          BYTEA CHECK (length(factory) = 20),
    ADD COLUMN factory_calldata BYTEA,
    -- upto: the most that the payer allows, and the one account that may settle it; value is what moves
    ADD COLUMN permitted        NUMERIC(78, 0) CHECK (permitted >= value),
    ADD COLUMN facilitator      BYTEA CHECK (length(facilitator) = 20),
    -- permit2, upto: nonce, deadline and signature of the EIP-2612 permit that lets Permit2 move the token
    ADD COLUMN token_permit     BYTEA CHECK (length(token_permit) = 129),
    -- what stands behind the calldata of the call that settles it (ERC-8021)
    ADD COLUMN attribution      BYTEA CHECK (length(attribution) BETWEEN 1 AND 1024);
ALTER TABLE settlements ALTER COLUMN signature_kind DROP DEFAULT;
ALTER TABLE settlements
    DROP CONSTRAINT settlements_authorization_kind_check,
    ADD CONSTRAINT settlements_authorization_kind_check
        CHECK (authorization_kind IN ('eip3009', 'permit2', 'upto')),
    ADD CHECK ((signature_kind = 'counterfactual') = (factory IS NOT NULL)),
    ADD CHECK ((factory IS NULL) = (factory_calldata IS NULL)),
    ADD CHECK ((authorization_kind = 'upto') = (permitted IS NOT NULL)),
    ADD CHECK ((permitted IS NULL) = (facilitator IS NULL)),
    ADD CHECK (authorization_kind <> 'eip3009' OR token_permit IS NULL),
    ADD CHECK (authorization_kind = 'eip3009' OR factory IS NULL);
