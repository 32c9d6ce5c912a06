-- Payments by delegation (ERC-7710): signature is the permission context, facilitator the account that redeems it.

ALTER TABLE settlements
    DROP CONSTRAINT settlements_authorization_kind_check,
    ADD CONSTRAINT settlements_authorization_kind_check
        CHECK (authorization_kind IN ('eip3009', 'permit2', 'upto', 'erc7710')),
    -- (permitted IS NULL) = (facilitator IS NULL)
    DROP CONSTRAINT settlements_check12,
    ADD CHECK ((authorization_kind IN ('upto', 'erc7710')) = (facilitator IS NOT NULL)),
    ADD CHECK (authorization_kind IN ('permit2', 'upto') OR token_permit IS NULL),
    ADD CHECK (authorization_kind <> 'erc7710' OR signature_kind = 'contract');
