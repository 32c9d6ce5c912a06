//! What the audit can find: each kind of difference once, with its subject and what stands on either side.

use std::fmt;

use alloy_primitives::{Address, B256};
use serde_json::{Value, json};
use teller_domain::{AuthorizationNonce, ChainId, SettlementId, SlotId};

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// How ledger and chain differ.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// The kind's name in both forms of output.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// A transaction that the ledger says was mined is on no canonical block.
    TransactionMissing = "transaction_missing",
    /// The transaction is in another block than the ledger says.
    BlockDiffers = "block_differs",
    /// The recorded block is not the canonical one at its height.
    BlockNotCanonical = "block_not_canonical",
    /// The transaction did not use the payment's authorization.
    AuthorizationNotUsed = "authorization_not_used",
    /// The authorization was used, and the signed transfer did not follow.
    TransferDiffers = "transfer_differs",
    /// The transfer is another log of the block than the ledger says.
    LogIndexDiffers = "log_index_differs",
    /// Two payments are settled by one log.
    LogCountedTwice = "log_counted_twice",
    /// A payment is settled by a transaction that none of the signers sent.
    NotOurTransaction = "not_our_transaction",
    /// A payment is settled by a transaction that is no attempt of a slot that it was in.
    NotInASlot = "not_in_a_slot",
    /// A slot's own transaction settled a payment that the ledger says somebody else settled.
    OursRecordedAsExternal = "ours_recorded_as_external",
    /// A payment that somebody else settled carries gas or cost.
    ExternalCost = "external_cost",
    /// A payment is assigned to a slot that is not open.
    SlotNotOpen = "slot_not_open",
    /// What was told and what the chain says differ, and no compensating entry says so.
    ToldNotCompensated = "told_not_compensated",
    /// A compensating entry that nothing told explains.
    CompensationUnfounded = "compensation_unfounded",
    /// The mined transaction of a slot is none of its attempts.
    AttemptUnknown = "attempt_unknown",
    /// A slot's gas is not the receipt's.
    GasDiffers = "gas_differs",
    /// A slot's cost is not the receipt's.
    CostDiffers = "cost_differs",
    /// The costs of a slot's payments do not sum to the slot's.
    SharesDiffer = "shares_differ",
    /// The gas of a slot's payments does not sum to the slot's.
    GasSharesDiffer = "gas_shares_differ",
    /// A slot is closed as a stranger's, and one of its own attempts is mined.
    ForeignButOurs = "foreign_but_ours",
    /// A slot is open although one of its attempts was mined blocks ago.
    OpenButMined = "open_but_mined",
    /// A signer's transaction used an authorization that the ledger does not know.
    UseWithoutRow = "use_without_row",
    /// A signer's transaction settled a payment that is not settled in the ledger.
    UseNotSettled = "use_not_settled",
    /// A slot's transaction settled a payment that is not among the slot's payments.
    UseNotInSlot = "use_not_in_slot",
    /// A nonce was used on the chain, and the ledger has no slot for it.
    NonceUnexplained = "nonce_unexplained",
    /// A nonce was used on the chain, and its slot is open.
    SlotLeftOpen = "slot_left_open",
    /// A slot is closed, and its nonce was not used on the chain.
    ClosedAboveSealed = "closed_above_sealed",
    /// The lane counts on from a nonce that has no slot and was not used.
    NonceWithoutSlot = "nonce_without_slot",
    /// A slot's transaction gave somebody else, or another amount, than the ledger says.
    TopUpDiffers = "top_up_differs",
    /// Values of settled payments do not sum to the transfers.
    ValueSum = "value_sum",
    /// Costs of settled payments do not sum to those of the slots.
    CostSum = "cost_sum",
}

/// What differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A payment.
    Settlement(SettlementId),
    /// A slot.
    Slot(SlotId),
    /// Nonces of a signer, from the first up to, and without, the last.
    Nonces {
        /// The signer.
        signer: Address,
        /// The first.
        from: u64,
        /// Behind the last.
        to: u64,
    },
    /// A use of an authorization on the chain.
    Use {
        /// The transaction.
        transaction: B256,
        /// The token.
        asset: Address,
        /// Whose money moved.
        payer: Address,
        /// The authorization's nonce.
        nonce: AuthorizationNonce,
    },
    /// All payments in an asset.
    Asset(Address),
    /// All slots.
    Costs,
}

impl Subject {
    fn json(self) -> Value {
        match self {
            Self::Settlement(id) => json!({ "settlement": id }),
            Self::Slot(slot) => json!({ "signer": slot.signer, "slot": slot.nonce.0 }),
            Self::Nonces { signer, from, to } => {
                json!({ "signer": signer, "fromNonce": from, "toNonce": to.saturating_sub(1) })
            }
            Self::Use {
                transaction,
                asset,
                payer,
                nonce,
            } => {
                json!({ "transaction": transaction, "asset": asset, "payer": payer, "nonce": nonce })
            }
            Self::Asset(asset) => json!({ "asset": asset }),
            Self::Costs => json!({}),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settlement(id) => write!(f, "settlement {id}"),
            Self::Slot(slot) => write!(f, "slot {}/{}", slot.signer, slot.nonce),
            Self::Nonces { signer, from, to } if *to == from.saturating_add(1) => {
                write!(f, "nonce {signer}/{from}")
            }
            Self::Nonces { signer, from, to } => {
                write!(f, "nonces {signer}/{from}..{}", to.saturating_sub(1))
            }
            Self::Use {
                transaction,
                asset,
                payer,
                nonce,
            } => write!(
                f,
                "authorization {} of {payer} at {asset} in {transaction}",
                nonce.0
            ),
            Self::Asset(asset) => write!(f, "asset {asset}"),
            Self::Costs => f.write_str("costs"),
        }
    }
}

/// One thing on which ledger and chain do not agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// How they differ.
    pub kind: Kind,
    /// On which network.
    pub chain: ChainId,
    /// What differs.
    pub subject: Subject,
    /// What the ledger says.
    pub ledger: String,
    /// What the chain says.
    pub found: String,
}

impl Difference {
    /// What stays the same when the same difference is found again.
    pub fn name(&self) -> (Kind, ChainId, Subject) {
        (self.kind, self.chain, self.subject)
    }

    /// One JSON object.
    pub fn json(&self) -> Value {
        let mut object = json!({
            "difference": self.kind.as_str(),
            "network": self.chain,
            "ledger": self.ledger,
            "found": self.found,
        });
        if let (Value::Object(object), Value::Object(subject)) = (&mut object, self.subject.json())
        {
            object.extend(subject);
        }
        object
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "DIFFERS  {}  {}  {}  ledger: {}; chain: {}",
            self.kind.as_str(),
            self.chain,
            self.subject,
            self.ledger,
            self.found
        )
    }
}
