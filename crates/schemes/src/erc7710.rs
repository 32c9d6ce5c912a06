//! Redeeming a delegation to pay (ERC-7710, PROTOCOL section 3.8). No other implementation exists; off by default.
//!
//! A manager is code that says "done": what it did is only in the token's logs, and managers come from an allow-list.

use alloy_primitives::{Address, B256, Bytes};
use alloy_sol_types::{SolCall, sol};
use teller_domain::{AssetAmount, Authorization, Payment};

use crate::Transfer;

sol! {
    function redeemDelegations(bytes[] permissionContexts, bytes32[] modes, bytes[] executionCallDatas) external;
    function transfer(address to, uint256 amount) external returns (bool);
}

/// ERC-7579: one call, and a revert of it reverts everything.
const SINGLE_CALL: B256 = B256::ZERO;

/// A payment by delegation.
#[derive(Clone, PartialEq, Eq)]
pub struct Redemption {
    /// The contract that knows the delegation.
    pub manager: Address,
    /// Whose tokens move.
    pub delegator: Address,
    /// The delegation, opaque to teller.
    pub permission_context: Bytes,
    /// The token.
    pub asset: Address,
    /// Who receives.
    pub pay_to: Address,
    /// How much.
    pub amount: AssetAmount,
}

/// A context holds signatures.
impl std::fmt::Debug for Redemption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redemption")
            .field("manager", &self.manager)
            .field("delegator", &self.delegator)
            .field("asset", &self.asset)
            .field("pay_to", &self.pay_to)
            .field("amount", &self.amount)
            .finish_non_exhaustive()
    }
}

impl Redemption {
    /// What a payment redeems; `None` if it pays another way.
    pub fn of(payment: &Payment) -> Option<Self> {
        let Authorization::Erc7710(delegation) = &payment.authorization else {
            return None;
        };
        Some(Self {
            manager: payment.key.authority,
            delegator: payment.key.payer,
            permission_context: delegation.context(),
            asset: payment.asset,
            pay_to: payment.payee,
            amount: payment.value,
        })
    }

    /// Calldata of the call to the manager that settles it: one transfer, and nothing else.
    pub fn call(&self) -> Bytes {
        redeemDelegationsCall {
            permissionContexts: vec![self.permission_context.clone()],
            modes: vec![SINGLE_CALL],
            executionCallDatas: vec![self.execution()],
        }
        .abi_encode()
        .into()
    }

    /// ERC-7579 single execution: `target ++ value ++ calldata`, packed.
    fn execution(&self) -> Bytes {
        let transfer = transferCall {
            to: self.pay_to,
            amount: self.amount.0,
        };
        [
            self.asset.as_slice(),
            &[0; 32],
            transfer.abi_encode().as_slice(),
        ]
        .concat()
        .into()
    }

    /// The log index of the transfer, if the transaction moved exactly this amount of the asset once from the
    /// delegator to the payee and nothing of the asset moved otherwise. Such payments travel alone, so that whatever
    /// else moved was the manager's doing. `moved` is what [`transfers`](crate::transfers) reads of the transaction.
    pub fn settled(&self, moved: &[(Address, Transfer)]) -> Option<u64> {
        let mut moved = moved.iter().filter(|(token, _)| *token == self.asset);
        let (_, only) = moved.next()?;
        let exact = only.from == self.delegator
            && only.to == self.pay_to
            && only.value == self.amount
            && moved.next().is_none();
        exact.then_some(only.log_index)
    }

    /// Whether balances read before and after a simulation show the transfer and nothing else.
    pub fn moved(
        &self,
        payee: (AssetAmount, AssetAmount),
        delegator: (AssetAmount, AssetAmount),
    ) -> bool {
        payee.0.checked_add(self.amount) == Some(payee.1)
            && delegator.1.checked_add(self.amount) == Some(delegator.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::TRANSFER_TOPIC;
    use crate::{EventLog, transfers};
    use alloy_primitives::{U256, hex};
    use teller_domain::{AuthorizationKey, ChainId, Delegation};

    fn redemption() -> Redemption {
        Redemption {
            manager: Address::repeat_byte(1),
            delegator: Address::repeat_byte(2),
            permission_context: Bytes::from_static(&[9; 70]),
            asset: Address::repeat_byte(3),
            pay_to: Address::repeat_byte(4),
            amount: AssetAmount::from(10_000),
        }
    }

    #[test]
    fn the_call_redeems_one_transfer() {
        let redemption = redemption();
        let data = redemption.call();
        assert_eq!(data[..4], hex!("cef6d209"));
        let call = redeemDelegationsCall::abi_decode(&data).unwrap();
        assert_eq!(call.permissionContexts, [redemption.permission_context]);
        assert_eq!(call.modes, [B256::ZERO]);
        let execution = &call.executionCallDatas[0];
        assert_eq!(execution.len(), 20 + 32 + 68);
        assert_eq!(execution[..20], [3; 20]);
        assert_eq!(execution[20..52], [0; 32]);
        assert_eq!(execution[52..56], hex!("a9059cbb"));
        let transfer = transferCall::abi_decode(&execution[52..]).unwrap();
        assert_eq!(transfer.to, Address::repeat_byte(4));
        assert_eq!(transfer.amount, U256::from(10_000));
    }

    #[test]
    fn a_payment_by_delegation_is_its_redemption() {
        let redemption = redemption();
        let context = redemption.permission_context.clone();
        let delegation = Delegation::new(context, Address::repeat_byte(9)).unwrap();
        let payment = Payment {
            key: AuthorizationKey {
                chain: ChainId(1),
                authority: redemption.manager,
                payer: redemption.delegator,
                nonce: delegation.nonce(),
            },
            asset: redemption.asset,
            payee: redemption.pay_to,
            value: redemption.amount,
            validity: Delegation::validity(),
            authorization: Authorization::Erc7710(delegation.into()),
        };
        assert_eq!(Redemption::of(&payment), Some(redemption));
    }

    #[test]
    fn only_one_exact_transfer_settles() {
        let redemption = redemption();
        let topics = |from: u8, to: u8| {
            [
                TRANSFER_TOPIC,
                Address::repeat_byte(from).into_word(),
                Address::repeat_byte(to).into_word(),
            ]
        };
        let (good, back, stranger) = (topics(2, 4), topics(4, 2), topics(5, 4));
        let exact = U256::from(10_000).to_be_bytes::<32>();
        let less = U256::from(9_999).to_be_bytes::<32>();
        let log = |address: u8, topics, data, index| EventLog {
            address: Address::repeat_byte(address),
            topics,
            data,
            index,
        };
        let settled = |logs: &[EventLog<'_>]| redemption.settled(&transfers(logs.iter().copied()));
        assert_eq!(settled(&[log(3, &good, &exact, 7)]), Some(7));
        assert_eq!(
            settled(&[log(8, &good, &exact, 6), log(3, &good, &exact, 7)]),
            Some(7)
        );
        for logs in [
            vec![],
            vec![log(8, &good, &exact, 7)],
            vec![log(3, &good, &less, 7)],
            vec![log(3, &back, &exact, 7)],
            vec![log(3, &stranger, &exact, 7)],
            vec![log(3, &good, &exact, 7), log(3, &back, &exact, 8)],
            vec![log(3, &good, &exact, 7), log(3, &good, &exact, 8)],
        ] {
            assert_eq!(settled(&logs), None);
        }
    }

    #[test]
    fn balances_must_move_by_the_amount_on_both_sides() {
        let redemption = redemption();
        let amount = |n: u64| AssetAmount::from(n);
        let moved = |payee, delegator| redemption.moved(payee, delegator);
        let good = (amount(5), amount(10_005));
        assert!(moved(good, (amount(10_000), amount(0))));
        assert!(!moved(good, (amount(10_000), amount(1))));
        assert!(!moved(
            (amount(5), amount(5)),
            (amount(10_000), amount(10_000))
        ));
        assert!(!moved(
            (AssetAmount(U256::MAX), amount(9_999)),
            (amount(10_000), amount(0))
        ));
    }
}
