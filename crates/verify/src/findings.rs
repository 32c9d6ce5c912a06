//! What the chain says of a payment: who judges its signature, and whether it would be settled.

use teller_chain::{AuthorizationState, Inspection, Simulation};
use teller_domain::{AssetAmount, Authorization, PayerSignature, Payment, Reason, Refusal};
use teller_schemes::erc7710::Redemption;
use teller_schemes::permit2::{self, Findings, PERMIT2, Permit};
use teller_schemes::{eip3009, recover};

use crate::checks::Checked;
use crate::network::{KnownDomain, Network};

/// Whether the payer's own key signed this, under the asset's configured domain or Permit2's.
pub(crate) fn signed_by_key(known: &KnownDomain, payment: &Payment) -> bool {
    let Some(signature) = payment.authorization.signature().ecdsa() else {
        return false;
    };
    let digest = match Permit::of(payment) {
        Some(permit) => permit.digest(),
        None => known.domain.digest(payment),
    };
    recover(digest, &signature) == Some(payment.key.payer)
}

/// Whether a payer without code can have signed so. One whose contract is still to be made can, where its factory is
/// trusted; whether that contract accepts the signature, only the simulation shows.
pub(crate) fn check_codeless(network: &Network, payment: &Payment, by_key: bool) -> Checked {
    let is_eip3009 = match payment.authorization {
        // Whoever the delegator is, its manager judges the delegation.
        Authorization::Erc7710(_) => return Ok(()),
        Authorization::Eip3009 { .. } => true,
        Authorization::Permit2(_) => false,
    };
    match payment.authorization.signature() {
        PayerSignature::Ecdsa { .. } if by_key => Ok(()),
        PayerSignature::Counterfactual(new) if is_eip3009 => {
            let factory = new.factory;
            if network.wallet_factories.contains(&factory) {
                return Ok(());
            }
            Err(Refusal::new(
                Reason::FactoryNotAllowed,
                format!("the factory {factory} is not on the allow-list"),
            ))
        }
        PayerSignature::Ecdsa { .. } => Err(Refusal::new(
            invalid_signature(payment),
            "the signature is not the payer's over these fields",
        )),
        PayerSignature::Contract(_) | PayerSignature::Counterfactual(_) => Err(Refusal::new(
            invalid_signature(payment),
            "the signature is for a contract to judge, and the payer is none",
        )),
    }
}

fn invalid_signature(payment: &Payment) -> Reason {
    match payment.authorization {
        Authorization::Eip3009 { .. } | Authorization::Erc7710(_) => Reason::InvalidSignature,
        Authorization::Permit2(_) => Reason::Permit2InvalidSignature,
    }
}

/// What the chain says of a payment whose signature is good or was judged in the simulation. Gives the payer's balance.
pub(crate) fn check_inspection(payment: &Payment, inspection: &Inspection) -> Checked<AssetAmount> {
    let balance = inspection.balance.ok_or_else(|| {
        Refusal::new(
            Reason::AssetNotDeployed,
            "there is no token at the asset's address",
        )
    })?;
    match (Permit::of(payment), Redemption::of(payment)) {
        (Some(permit), _) => check_permit(payment, &permit, inspection, balance)?,
        (None, Some(redemption)) => check_redemption(&redemption, inspection, balance)?,
        (None, None) => check_transfer(payment, inspection, balance)?,
    }
    Ok(balance)
}

fn check_transfer(payment: &Payment, inspection: &Inspection, balance: AssetAmount) -> Checked {
    match inspection.authorization {
        AuthorizationState::Unused => {}
        AuthorizationState::Used => {
            return Err(Refusal::new(
                Reason::NonceAlreadyUsed,
                "the authorization was used or cancelled",
            ));
        }
        AuthorizationState::Unreadable => {
            return Err(Refusal::new(
                Reason::Eip3009NotSupported,
                "the asset does not answer authorizationState",
            ));
        }
    }
    if balance < payment.value {
        return Err(Refusal::new(
            Reason::InsufficientBalance,
            format!("the payer has {balance}, the payment is {}", payment.value),
        ));
    }
    match &inspection.simulation {
        Simulation::Succeeded { .. } | Simulation::Skipped => Ok(()),
        Simulation::Reverted(data) => Err(Refusal::new(
            eip3009::classify_revert(data).unwrap_or(Reason::SimulationFailed),
            "the transfer would revert",
        )),
    }
}

fn check_permit(
    payment: &Payment,
    permit: &Permit,
    inspection: &Inspection,
    balance: AssetAmount,
) -> Checked {
    if inspection.authorization == AuthorizationState::Used {
        return Err(Refusal::new(
            Reason::Permit2InvalidNonce,
            "the permit's nonce was used or invalidated",
        ));
    }
    let revert = match &inspection.simulation {
        Simulation::Succeeded { .. } | Simulation::Skipped => return Ok(()),
        Simulation::Reverted(data) => data,
    };
    if payment.authorization.signature().is_for_code()
        && permit2::classify_revert(revert) == Some(Reason::Permit2InvalidSignature)
    {
        return Err(Refusal::new(
            Reason::Permit2InvalidSignature,
            "the payer's code does not accept the signature",
        ));
    }
    let read = inspection.permit2;
    let findings = Findings {
        permit2: read.filter(|read| read.proxy_ready).map(|_| PERMIT2),
        balance,
        allowance: match &payment.authorization {
            // A permit of the token's own raises the allowance before anything moves.
            Authorization::Permit2(signed) if signed.token_permit().is_some() => permit.amount,
            Authorization::Permit2(_)
            | Authorization::Eip3009 { .. }
            | Authorization::Erc7710(_) => read.map(|read| read.allowance).unwrap_or_default(),
        },
    };
    let reason = permit2::diagnose(&findings, payment.value, revert);
    let detail = format!(
        "the settlement would revert; the payer has {balance}, Permit2 may move {}, the payment is {}",
        findings.allowance, payment.value
    );
    Err(Refusal::new(reason, detail))
}

/// A manager that succeeds has proven nothing: the balances must show the transfer.
fn check_redemption(
    redemption: &Redemption,
    inspection: &Inspection,
    balance: AssetAmount,
) -> Checked {
    let amount = redemption.amount;
    if balance < amount {
        return Err(Refusal::new(
            Reason::InsufficientBalance,
            format!("the delegator has {balance}, the payment is {amount}"),
        ));
    }
    match inspection.redemption_failure(redemption) {
        None => Ok(()),
        Some(reason) => Err(Refusal::new(
            reason,
            format!(
                "the redemption does not move exactly {amount} of {} from {} to {}",
                redemption.asset, redemption.delegator, redemption.pay_to
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, B256, Bytes, hex};
    use teller_chain::{PermitReading, RedemptionReading};
    use teller_domain::{
        AuthorizationKey, AuthorizationNonce, BlockRef, ChainId, Delegation, EcdsaSignature,
        Permit2, PermitTerms, UnixSeconds, Validity,
    };

    use super::*;

    const ASSET: Address = Address::repeat_byte(4);

    fn signature() -> PayerSignature {
        EcdsaSignature {
            r: B256::repeat_byte(1),
            s: B256::repeat_byte(2),
            v: 27,
        }
        .into()
    }

    fn by_key() -> Authorization {
        Authorization::Eip3009 {
            signature: signature(),
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
            asset: ASSET,
            payee: Address::repeat_byte(5),
            value: AssetAmount::from(10_000),
            validity: Validity::between(UnixSeconds(7), UnixSeconds(9)),
            authorization,
        }
    }

    #[test]
    fn each_finding_on_the_chain_has_its_reason() {
        let payment = payment(ASSET, by_key());
        let found = Inspection {
            block: BlockRef {
                number: 1,
                hash: B256::ZERO,
            },
            code_size: 0,
            balance: Some(payment.value),
            payee_balance: AssetAmount::ZERO,
            authorization: AuthorizationState::Unused,
            simulation: Simulation::Succeeded { gas_used: 60_000 },
            permit2: None,
            redemption: None,
        };
        assert_eq!(check_inspection(&payment, &found), Ok(payment.value));
        type Spoil = fn(&mut Inspection);
        let faults: [(Reason, Spoil); 5] = [
            (Reason::AssetNotDeployed, |f| f.balance = None),
            (Reason::NonceAlreadyUsed, |f| {
                f.authorization = AuthorizationState::Used;
            }),
            (Reason::Eip3009NotSupported, |f| {
                f.authorization = AuthorizationState::Unreadable;
            }),
            (Reason::InsufficientBalance, |f| {
                f.balance = Some(AssetAmount::from(9_999));
            }),
            (Reason::SimulationFailed, |f| {
                f.simulation = Simulation::Reverted(Bytes::new());
            }),
        ];
        for (reason, spoil) in faults {
            let mut found = found.clone();
            spoil(&mut found);
            let refusal = check_inspection(&payment, &found).unwrap_err();
            assert_eq!(refusal.reason, reason);
        }
    }

    #[test]
    fn a_redemption_counts_by_the_balances_behind_it() {
        let delegation = Delegation::new(Bytes::from_static(&[1]), Address::ZERO).unwrap();
        let payment = payment(
            Address::repeat_byte(1),
            Authorization::Erc7710(delegation.into()),
        );
        let found = |balance: u64, behind: (u64, u64), simulation| Inspection {
            block: BlockRef {
                number: 1,
                hash: B256::ZERO,
            },
            code_size: 100,
            balance: Some(AssetAmount::from(balance)),
            payee_balance: AssetAmount::from(5),
            authorization: AuthorizationState::Unused,
            simulation,
            permit2: None,
            redemption: Some(RedemptionReading {
                balance: AssetAmount::from(behind.0),
                payee_balance: AssetAmount::from(behind.1),
            }),
        };
        let good = Simulation::Succeeded { gas_used: 1 };
        let told = |found: &Inspection| check_inspection(&payment, found).map_err(|no| no.reason);
        let balance = AssetAmount::from(10_001);
        assert_eq!(told(&found(10_001, (1, 10_005), good.clone())), Ok(balance));
        for (balance, behind, simulation, reason) in [
            (
                9_999,
                (0, 10_004),
                good.clone(),
                Reason::InsufficientBalance,
            ),
            // Nothing moved; the payee got it from somebody else; a fee was taken; less came.
            (
                10_001,
                (10_001, 5),
                good.clone(),
                Reason::DelegationTransferMismatch,
            ),
            (
                10_001,
                (10_001, 10_005),
                good.clone(),
                Reason::DelegationTransferMismatch,
            ),
            (
                10_001,
                (0, 10_005),
                good.clone(),
                Reason::DelegationTransferMismatch,
            ),
            (
                10_001,
                (1, 10_004),
                good,
                Reason::DelegationTransferMismatch,
            ),
            (
                10_001,
                (1, 10_005),
                Simulation::Reverted(Bytes::new()),
                Reason::DelegationSimulationFailed,
            ),
        ] {
            assert_eq!(told(&found(balance, behind, simulation)), Err(reason));
        }
        let no_token = Inspection {
            balance: None,
            ..found(10_001, (1, 10_005), Simulation::Skipped)
        };
        assert_eq!(told(&no_token), Err(Reason::AssetNotDeployed));
    }

    #[test]
    fn each_finding_about_a_permit_has_its_reason() {
        let permit = |signature| {
            let permit = Permit2 {
                terms: PermitTerms::Exact,
                signature,
                allowance: None,
            };
            payment(PERMIT2, Authorization::Permit2(Box::new(permit)))
        };
        let reverted = |data: &'static [u8]| Simulation::Reverted(Bytes::from_static(data));
        let found = |balance: u64, allowance: u64, proxy_ready, simulation| Inspection {
            block: BlockRef {
                number: 1,
                hash: B256::ZERO,
            },
            code_size: 0,
            balance: Some(AssetAmount::from(balance)),
            payee_balance: AssetAmount::ZERO,
            authorization: AuthorizationState::Unused,
            simulation,
            permit2: Some(PermitReading {
                proxy_ready,
                allowance: AssetAmount::from(allowance),
            }),
            redemption: None,
        };
        let told = |payment: &Payment, found: &Inspection| {
            check_inspection(payment, found).map_err(|refusal| refusal.reason)
        };
        let by_key = permit(signature());
        let good = found(10_000, 10_000, true, Simulation::Succeeded { gas_used: 1 });
        assert_eq!(told(&by_key, &good), Ok(by_key.value));
        let used = Inspection {
            authorization: AuthorizationState::Used,
            ..good.clone()
        };
        assert_eq!(told(&by_key, &used), Err(Reason::Permit2InvalidNonce));
        let no_token = Inspection {
            balance: None,
            ..good
        };
        assert_eq!(told(&by_key, &no_token), Err(Reason::AssetNotDeployed));
        for (balance, allowance, proxy_ready, reason) in [
            (9_999, 0, false, Reason::Permit2ProxyNotDeployed),
            (9_999, 0, true, Reason::Permit2InsufficientBalance),
            (10_000, 9_999, true, Reason::Permit2AllowanceRequired),
            (10_000, 10_000, true, Reason::Permit2SimulationFailed),
        ] {
            let found = found(balance, allowance, proxy_ready, reverted(&[]));
            assert_eq!(told(&by_key, &found), Err(reason));
        }
        // InvalidContractSignature
        let unaccepted = found(0, 0, true, reverted(&hex!("b0669cbc")));
        let contract = permit(PayerSignature::Contract(Bytes::from_static(&[1])));
        assert_eq!(
            told(&contract, &unaccepted),
            Err(Reason::Permit2InvalidSignature)
        );
    }
}
