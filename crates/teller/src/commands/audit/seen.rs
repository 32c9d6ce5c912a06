//! What was read from the chain for a page of the ledger: values only, so that comparing needs no node.

use std::collections::{HashMap, HashSet};

use alloy_primitives::{Address, B256};
use teller_chain::{Log, TxReceipt};
use teller_domain::{AuthorizationKey, BlockRef, ChainId, Payment, Wei};
use teller_schemes::erc7710::Redemption;
use teller_schemes::permit2::{ProxySettlement, settlements};
use teller_schemes::{Effect, EventLog, effects, transfers};

use super::difference::{Difference, Kind, Subject};

/// The chain, as far as a page of the ledger needs it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The network.
    pub chain: ChainId,
    /// The sealed head when the audit began. Whatever the ledger places above it is left out.
    pub horizon: u64,
    /// Accounts that are, or have been, signers.
    pub signers: HashSet<Address>,
    /// The tokens whose events count.
    pub assets: HashSet<Address>,
    /// Receipts by transaction; what is not in it is not mined.
    pub receipts: HashMap<B256, TxReceipt>,
    /// What the transactions of slots that are there to give something gave, and whom.
    pub given: HashMap<B256, (Address, Wei)>,
    /// Hashes of the canonical blocks by height.
    pub canonical: HashMap<u64, B256>,
}

/// A use of an authorization, and what it did.
pub type Use = (AuthorizationKey, Effect);

impl Seen {
    /// A difference on this network.
    pub fn differs(
        &self,
        kind: Kind,
        subject: Subject,
        ledger: impl ToString,
        found: impl ToString,
    ) -> Difference {
        Difference {
            kind,
            chain: self.chain,
            subject,
            ledger: ledger.to_string(),
            found: found.to_string(),
        }
    }

    /// The receipt of a transaction that the ledger places in a block, if it is there; what is wrong with the place, if
    /// anything is.
    pub fn placed(
        &self,
        transaction: B256,
        block: BlockRef,
        subject: Subject,
    ) -> (Option<&TxReceipt>, Option<Difference>) {
        let recorded = format!("{transaction} in block {} {}", block.number, block.hash);
        let Some(receipt) = self.receipts.get(&transaction) else {
            let missing = self.differs(
                Kind::TransactionMissing,
                subject,
                recorded,
                "no such transaction",
            );
            return (None, Some(missing));
        };
        if receipt.block != block {
            let found = format!("block {} {}", receipt.block.number, receipt.block.hash);
            let elsewhere = self.differs(Kind::BlockDiffers, subject, recorded, found);
            return (Some(receipt), Some(elsewhere));
        }
        let wrong = match self.canonical.get(&block.number) {
            Some(hash) if *hash == block.hash => None,
            other => {
                let found = other.map_or("no such block".to_owned(), ToString::to_string);
                Some(self.differs(Kind::BlockNotCanonical, subject, recorded, found))
            }
        };
        (Some(receipt), wrong)
    }

    /// What the x402 proxies settled in a transaction, of the tokens that count, in the order of the logs.
    pub fn settlements(&self, receipt: &TxReceipt) -> Vec<ProxySettlement> {
        if !receipt.succeeded {
            return Vec::new();
        }
        let mut found = settlements(receipt.logs.iter().map(event));
        found.retain(|found| self.assets.contains(&found.token));
        found
    }

    /// The log index of the transfer by which a transaction redeemed a payment's delegation, if it did.
    pub fn redemption(&self, receipt: &TxReceipt, payment: &Payment) -> Option<u64> {
        // First of all: nearly every payment is none, and the logs are a whole batch's.
        let redemption = Redemption::of(payment)?;
        if !receipt.succeeded || !self.assets.contains(&payment.asset) {
            return None;
        }
        redemption.settled(&transfers(receipt.logs.iter().map(event)))
    }

    /// The authorizations that a transaction used, of the tokens that count, in no order.
    pub fn uses(&self, receipt: &TxReceipt) -> Vec<Use> {
        if !receipt.succeeded {
            return Vec::new();
        }
        effects(receipt.logs.iter().map(event))
            .into_iter()
            .filter(|((asset, _, _), effect)| {
                self.assets.contains(asset) && matches!(effect, Effect::Used(_))
            })
            .map(|((asset, payer, nonce), effect)| {
                let key = AuthorizationKey {
                    chain: self.chain,
                    authority: asset,
                    payer,
                    nonce,
                };
                (key, effect)
            })
            .collect()
    }
}

fn event(log: &Log) -> EventLog<'_> {
    EventLog {
        address: log.address,
        topics: &log.topics,
        data: &log.data,
        index: log.index,
    }
}
