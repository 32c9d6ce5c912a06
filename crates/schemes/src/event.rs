//! What a transaction did to authorizations, read from its logs.

use std::collections::HashMap;

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::{SolEvent, sol};
use teller_domain::{AssetAmount, AuthorizationNonce, Payment};

sol! {
    /// EIP-3009: the authorization was used.
    event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
    /// EIP-3009: the authorization was cancelled.
    event AuthorizationCanceled(address indexed authorizer, bytes32 indexed nonce);
}

/// Topic of `Transfer(address,address,uint256)`.
pub(crate) const TRANSFER_TOPIC: B256 =
    alloy_primitives::b256!("ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef");

/// A log as a node reports it.
#[derive(Debug, Clone, Copy)]
pub struct EventLog<'a> {
    /// The contract that emitted it.
    pub address: Address,
    /// Its topics.
    pub topics: &'a [B256],
    /// Its data.
    pub data: &'a [u8],
    /// Its index in the block.
    pub index: u64,
}

/// A movement of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Who paid.
    pub from: Address,
    /// Who received.
    pub to: Address,
    /// How much.
    pub value: AssetAmount,
    /// Index of the log in the block.
    pub log_index: u64,
}

impl Transfer {
    /// The movement that a log reports, if it reports one.
    fn read(log: &EventLog<'_>) -> Option<Self> {
        match log.topics {
            [topic, from, to] if *topic == TRANSFER_TOPIC && log.data.len() == 32 => Some(Self {
                from: Address::from_word(*from),
                to: Address::from_word(*to),
                value: AssetAmount(U256::from_be_slice(log.data)),
                log_index: log.index,
            }),
            _ => None,
        }
    }
}

/// Every movement of every token, with the token, in the order of the logs.
pub fn transfers<'a>(logs: impl Iterator<Item = EventLog<'a>>) -> Vec<(Address, Transfer)> {
    let moved = |log: EventLog<'a>| Some((log.address, Transfer::read(&log)?));
    logs.filter_map(moved).collect()
}

/// What a use of an authorization did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It was used, and this is the transfer that followed, if one did.
    Used(Option<Transfer>),
    /// It was cancelled.
    Cancelled,
}

impl Effect {
    /// The log index of the transfer if it is exactly the one that `payment` signed.
    pub fn settles(&self, payment: &Payment) -> Option<u64> {
        match self {
            Self::Used(Some(transfer))
                if transfer.from == payment.key.payer
                    && transfer.to == payment.payee
                    && transfer.value == payment.value =>
            {
                Some(transfer.log_index)
            }
            Self::Used(_) | Self::Cancelled => None,
        }
    }
}

/// The effects of a transaction's logs by (token, payer, nonce).
///
/// EIP-3009 tokens emit `AuthorizationUsed` and then `Transfer`; a reverted sub-call emits nothing. The transfer of an
/// authorization is the token's next log, and nothing else counts.
pub fn effects<'a>(
    logs: impl Iterator<Item = EventLog<'a>>,
) -> HashMap<(Address, Address, AuthorizationNonce), Effect> {
    let mut effects = HashMap::new();
    let mut awaiting: HashMap<Address, (Address, Address, AuthorizationNonce)> = HashMap::new();
    for log in logs {
        let previous = awaiting.remove(&log.address);
        match log.topics {
            [topic, authorizer, nonce] if *topic == AuthorizationUsed::SIGNATURE_HASH => {
                let key = (
                    log.address,
                    Address::from_word(*authorizer),
                    AuthorizationNonce(*nonce),
                );
                effects.insert(key, Effect::Used(None));
                awaiting.insert(log.address, key);
            }
            [topic, authorizer, nonce] if *topic == AuthorizationCanceled::SIGNATURE_HASH => {
                let key = (
                    log.address,
                    Address::from_word(*authorizer),
                    AuthorizationNonce(*nonce),
                );
                effects.insert(key, Effect::Cancelled);
            }
            _ => {
                if let (Some(key), Some(transfer)) = (previous, Transfer::read(&log)) {
                    effects.insert(key, Effect::Used(Some(transfer)));
                }
            }
        }
    }
    effects
}
