//! Whether an authorization's nonce is used, as its authority keeps it: the token under EIP-3009, Permit2 under Permit2.

use alloy_primitives::{Address, Bytes, U256};
use teller_domain::{PERMIT2, Payment};

use crate::eip3009::authorization_state_call;
use crate::permit2::{Permit, nonce_bitmap_call, nonce_used};

/// Whom to ask, with which calldata.
pub fn call(payment: &Payment) -> (Address, Bytes) {
    let payer = payment.key.payer;
    match Permit::of(payment) {
        Some(permit) => (PERMIT2, nonce_bitmap_call(payer, permit.nonce)),
        None => {
            let call = authorization_state_call(payer, payment.key.nonce.0);
            (payment.asset, call)
        }
    }
}

/// What the answer says; `None` if it is none.
pub fn is_used(payment: &Payment, answer: &[u8]) -> Option<bool> {
    let word: [u8; 32] = answer.try_into().ok()?;
    let word = U256::from_be_bytes(word);
    match Permit::of(payment) {
        Some(permit) => Some(nonce_used(word, permit.nonce)),
        None if word <= U256::ONE => Some(word == U256::ONE),
        None => None,
    }
}
