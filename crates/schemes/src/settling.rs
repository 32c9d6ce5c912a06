//! The one call that settles a payment, whichever way it was signed, and what a transaction's logs say of it.

use std::collections::HashMap;

use alloy_primitives::{Address, Bytes};
use teller_domain::{Authorization, AuthorizationNonce, PayerSignature, Payment, Reason};

use crate::erc6492::Wrapper;
use crate::erc7710::Redemption;
use crate::permit2::{self, Permit, ProxySettlement};
use crate::{Effect, EventLog, Transfer, effects, eip2612, eip3009, transfers};

/// Whom to call with what. Simulations, batches and single transactions all make exactly this call; a payer that is not
/// there yet is made in the same breath, through Multicall3.
pub fn settling_call(payment: &Payment, multicall3: Address) -> (Address, Bytes) {
    if let Some(redemption) = Redemption::of(payment) {
        return (redemption.manager, redemption.call());
    }
    let Authorization::Permit2(signed) = &payment.authorization else {
        return transfer(payment, multicall3);
    };
    let Some(permit) = Permit::of(payment) else {
        return transfer(payment, multicall3);
    };
    let owner = payment.key.payer;
    let signature = signed.signature.to_bytes();
    let call = match signed.token_permit() {
        None => permit2::settle_call(&permit, owner, payment.value, &signature),
        Some(allowance) => permit2::settle_with_permit_call(
            &permit,
            owner,
            payment.value,
            &signature,
            &eip2612::SignedPermit::of(allowance),
        ),
    };
    (permit.proxy.address(), call)
}

fn transfer(payment: &Payment, multicall3: Address) -> (Address, Bytes) {
    let call = eip3009::transfer_call(payment);
    match payment.authorization.signature() {
        PayerSignature::Ecdsa { .. } | PayerSignature::Contract(_) => (payment.asset, call),
        PayerSignature::Counterfactual(new) => {
            let wrapper = Wrapper {
                factory: new.factory,
                factory_calldata: new.factory_calldata.clone(),
                signature: new.signature.clone(),
            };
            (multicall3, wrapper.deploy_then(payment.asset, call))
        }
    }
}

/// What a revert of the settling call says about the payment; `None` if it says nothing that teller knows.
pub fn classify_revert(payment: &Payment, data: &[u8]) -> Option<Reason> {
    match payment.authorization {
        Authorization::Eip3009 { .. } => eip3009::classify_revert(data),
        Authorization::Permit2(_) => permit2::classify_revert(data),
        // Whose revert it is, the manager's, the delegator's or the token's, cannot be told.
        Authorization::Erc7710(_) => None,
    }
}

/// What the logs of one transaction of teller's own say of the payments that it carried.
///
/// An EIP-3009 token names the authorization. Nothing names the permit that a proxy has spent, so a settlement by a
/// proxy is known by its terms: no transaction carries two permits of the same terms, and each settlement counts for one
/// payment only. A delegation is alone in its transaction, and whatever moves there is its own.
#[derive(Debug)]
pub struct Outcome {
    effects: HashMap<(Address, Address, AuthorizationNonce), Effect>,
    settlements: Vec<ProxySettlement>,
    moved: Vec<(Address, Transfer)>,
}

impl Outcome {
    /// Reads the logs of a transaction, in their order.
    pub fn read<'a>(logs: impl Iterator<Item = EventLog<'a>> + Clone) -> Self {
        Self {
            effects: effects(logs.clone()),
            settlements: permit2::settlements(logs.clone()),
            moved: transfers(logs),
        }
    }

    /// The log index of the transfer, if the transaction made exactly the one that `payment` signed. A settlement by a
    /// proxy that was taken is not found again.
    pub fn take(&mut self, payment: &Payment) -> Option<u64> {
        if let Some(redemption) = Redemption::of(payment) {
            let log_index = redemption.settled(&self.moved)?;
            self.moved.clear();
            return Some(log_index);
        }
        match Permit::of(payment) {
            None => used_by(&self.effects, payment).and_then(|effect| effect.settles(payment)),
            Some(permit) => {
                let paid =
                    |found: &ProxySettlement| found.pays(&permit, payment.key.payer, payment.value);
                let at = self
                    .settlements
                    .iter()
                    .position(|found| paid(found).is_some())?;
                paid(&self.settlements.remove(at))
            }
        }
    }
}

/// What became of an EIP-3009 payment's authorization.
pub fn used_by<'e>(
    effects: &'e HashMap<(Address, Address, AuthorizationNonce), Effect>,
    payment: &Payment,
) -> Option<&'e Effect> {
    effects.get(&(payment.asset, payment.key.payer, payment.key.nonce))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::TRANSFER_TOPIC;
    use crate::multicall::MULTICALL3;
    use crate::multicall::tests::decoded;
    use crate::permit2::{EXACT_PROXY, PERMIT2, UPTO_PROXY};
    use alloy_primitives::{B256, U256, hex, keccak256};
    use teller_domain::{
        Allowance, AssetAmount, AuthorizationKey, ChainId, Counterfactual, Delegation,
        EcdsaSignature, Permit2, PermitTerms, TokenPermit, Validity,
    };

    const TOKEN: Address = Address::repeat_byte(4);

    fn plain() -> EcdsaSignature {
        EcdsaSignature {
            r: B256::repeat_byte(1),
            s: B256::repeat_byte(2),
            v: 27,
        }
    }

    fn payment(authority: Address, authorization: Authorization) -> Payment {
        Payment {
            key: AuthorizationKey {
                chain: ChainId(1),
                authority,
                payer: Address::repeat_byte(2),
                nonce: AuthorizationNonce(B256::repeat_byte(3)),
            },
            asset: TOKEN,
            payee: Address::repeat_byte(5),
            value: AssetAmount::from(6),
            validity: Validity::signed(U256::MAX, U256::MAX),
            authorization,
        }
    }

    fn eip3009(signature: PayerSignature) -> Payment {
        payment(TOKEN, Authorization::Eip3009 { signature })
    }

    fn permit2(terms: PermitTerms, allowance: Option<TokenPermit>) -> Payment {
        payment(
            PERMIT2,
            Authorization::Permit2(Box::new(Permit2 {
                terms,
                signature: plain().into(),
                allowance: allowance.map(Allowance::Permit).map(Box::new),
            })),
        )
    }

    #[test]
    fn each_way_of_signing_is_settled_by_its_own_call() {
        let called = |payment: &Payment| {
            let (target, call) = settling_call(payment, MULTICALL3);
            (target, <[u8; 4]>::try_from(&call[..4]).unwrap())
        };
        assert_eq!(called(&eip3009(plain().into())), (TOKEN, hex!("e3ee160e")));
        let contract = PayerSignature::Contract(vec![1; 100].into());
        assert_eq!(called(&eip3009(contract)), (TOKEN, hex!("cf092995")));
        let upto = PermitTerms::Upto {
            facilitator: Address::repeat_byte(8),
            permitted: AssetAmount::from(60),
        };
        let allowance = TokenPermit::of_checked(
            Address::repeat_byte(2),
            TOKEN,
            AssetAmount::from(6),
            &[1; TokenPermit::BYTES],
        );
        for (terms, allowance, target, selector) in [
            (PermitTerms::Exact, None, EXACT_PROXY, hex!("13cd3b53")),
            (PermitTerms::Exact, allowance, EXACT_PROXY, hex!("fa340378")),
            (upto, None, UPTO_PROXY, hex!("ff11e7b4")),
            (upto, allowance, UPTO_PROXY, hex!("016c1748")),
        ] {
            let payment = permit2(terms, allowance);
            assert_eq!(called(&payment), (target, selector));
            let (target, call) = settling_call(&payment, MULTICALL3);
            let read = permit2::decode_call(ChainId(1), target, &call).unwrap();
            assert_eq!(Some(read.permit), Permit::of(&payment));
            assert_eq!(read.amount, payment.value);
        }
    }

    #[test]
    fn a_wallet_that_is_not_there_is_made_and_pays_in_one_call() {
        let payment = eip3009(PayerSignature::from(Counterfactual {
            factory: Address::repeat_byte(7),
            factory_calldata: Bytes::from_static(&[1]),
            signature: Bytes::from_static(&[2]),
        }));
        let (target, call) = settling_call(&payment, MULTICALL3);
        assert_eq!(target, MULTICALL3);
        let steps = decoded(&call);
        assert_eq!((steps[0].0, steps[0].1), (Address::repeat_byte(7), true));
        assert_eq!((steps[1].0, steps[1].1), (TOKEN, false));
        assert_eq!(steps[1].2[..4], hex!("cf092995"));
    }

    #[test]
    fn one_settlement_by_a_proxy_counts_for_one_payment() {
        let first = permit2(PermitTerms::Exact, None);
        let mut twin = first.clone();
        twin.key.nonce = AuthorizationNonce(B256::repeat_byte(9));
        let moved = [
            TRANSFER_TOPIC,
            first.key.payer.into_word(),
            first.payee.into_word(),
        ];
        let settled = [keccak256("Settled()")];
        let value = first.value.0.to_be_bytes::<32>();
        let log = |address, topics, data, index| EventLog {
            address,
            topics,
            data,
            index,
        };
        let logs = [
            log(TOKEN, &moved[..], &value[..], 4),
            log(EXACT_PROXY, &settled[..], &[][..], 5),
        ];
        let mut outcome = Outcome::read(logs.into_iter());
        assert_eq!(outcome.take(&eip3009(plain().into())), None);
        assert_eq!(outcome.take(&first), Some(4));
        assert_eq!(outcome.take(&twin), None);
    }

    #[test]
    fn a_delegation_is_redeemed_by_its_manager_and_counts_by_its_transfer() {
        let delegation = Delegation::new(vec![7; 90].into(), Address::repeat_byte(8)).unwrap();
        let manager = Address::repeat_byte(1);
        let payment = payment(manager, Authorization::Erc7710(delegation.into()));
        let (target, call) = settling_call(&payment, MULTICALL3);
        assert_eq!((target, &call[..4]), (manager, &hex!("cef6d209")[..]));
        let moved = [
            TRANSFER_TOPIC,
            payment.key.payer.into_word(),
            payment.payee.into_word(),
        ];
        let value = payment.value.0.to_be_bytes::<32>();
        let log = EventLog {
            address: TOKEN,
            topics: &moved,
            data: &value,
            index: 4,
        };
        assert_eq!(Outcome::read(std::iter::empty()).take(&payment), None);
        let mut outcome = Outcome::read(std::iter::once(log));
        assert_eq!(outcome.take(&payment), Some(4));
        assert_eq!(outcome.take(&payment), None);
    }
}
