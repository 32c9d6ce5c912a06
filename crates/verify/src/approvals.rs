//! Payers' own approvals of Permit2, which teller sends for them (PROTOCOL section 7.2): whether one fits its payment,
//! whether the payer can pay for it or be helped to, and what the payment would do behind it.

use teller_chain::{Account, Inspection, PermitReading, Simulation};
use teller_domain::{AssetAmount, Payment, Reason, Refusal, TokenApproval, TopUpPolicy, Wei};
use teller_schemes::erc20_approval::{Approval, Sponsored, check_members};
use teller_store::MadeTopUp;

use crate::checks::Checked;
use crate::network::Network;

/// An approval as far as it can be judged without the chain.
pub(crate) fn read(payment: &Payment, sent: &TokenApproval) -> Checked<Approval> {
    let (payer, asset) = (payment.key.payer, payment.asset);
    let sponsored = Sponsored {
        chain: payment.key.chain,
        payer,
        permitted: payment.permitted(),
    };
    check_members((sent.owner, sent.token, sent.spender), payer, asset)
        .and_then(|()| Approval::decode(&sent.transaction, asset))
        .and_then(|approval| approval.check(&sponsored).map(|()| approval))
        .map_err(|reason| Refusal::new(reason, "the signed approval does not fit the payment"))
}

/// The approval that must be mined before the payment can be settled: none where nobody sends one, or where Permit2 may
/// move enough already.
pub(crate) fn needed(
    network: &Network,
    payment: &Payment,
    inspection: &Inspection,
) -> Checked<Option<(TopUpPolicy, Approval)>> {
    let (Some(policy), Some(sent)) = (network.approvals, payment.token_approval()) else {
        return Ok(None);
    };
    let allowance = inspection.permit2.map(|read| read.allowance);
    if allowance.unwrap_or_default() >= payment.permitted() {
        return Ok(None);
    }
    read(payment, sent).map(|approval| Some((policy, approval)))
}

/// Whether the network would take the approval now, if its sender could pay for it.
pub(crate) fn check_now(approval: &Approval, account: Account, base_fee: u128) -> Checked {
    let checked = approval.check_now(account.nonce.0, base_fee);
    checked.map_err(|reason| {
        let detail = format!(
            "the approval has nonce {} and pays up to {} for a unit of gas; the payer's next nonce is {}, the base fee {base_fee}",
            approval.nonce, approval.max_fee_per_gas, account.nonce.0
        );
        Refusal::new(reason, detail)
    })
}

/// Whether what the payer lacks for the approval's gas may be given. A payer with code would run it on what it is given.
pub(crate) fn check_lacking(lacking: Wei, has_code: bool, policy: TopUpPolicy) -> Checked {
    if lacking > policy.most {
        let most = policy.most;
        return Err(insufficient(format!(
            "the payer lacks {lacking} wei for the approval, at most {most} is given"
        )));
    }
    if lacking > Wei::ZERO && has_code {
        return Err(insufficient(format!(
            "the payer lacks {lacking} wei for the approval, nothing is given to accounts with code"
        )));
    }
    Ok(())
}

/// Nobody is given anything twice for a token. What is on its way counts; what was begun and never arrived does, too.
pub(crate) fn check_once(lacking: Wei, before: Option<MadeTopUp>) -> Checked {
    match before {
        None => Ok(()),
        Some(made) if made.open && made.top_up.value >= lacking => Ok(()),
        Some(_) => Err(insufficient(format!(
            "the payer lacks {lacking} wei for the approval, and a top-up for this token was begun before"
        ))),
    }
}

fn insufficient(detail: String) -> Refusal {
    Refusal::new(Reason::ApprovalInsufficientGas, detail)
}

/// What there is to say of the payment behind its approval, from a simulation of both. Without one, proxy and balance must
/// do, where no code judges the signature. A call to where no proxy is succeeds, and proves nothing.
pub(crate) fn behind(
    payment: &Payment,
    approval: &Approval,
    before: Inspection,
    simulated: Option<Vec<Simulation>>,
) -> Checked<Inspection> {
    if !before.permit2.is_some_and(|read| read.proxy_ready) {
        return Err(Refusal::new(
            Reason::Permit2ProxyNotDeployed,
            "there is no proxy at its address",
        ));
    }
    let simulation = match simulated.as_deref() {
        None if before.code_size > 0 => {
            return Err(Refusal::new(
                Reason::Permit2AllowanceRequired,
                "no node here can simulate an approval and what follows, as it takes to let the payer's code judge the signature",
            ));
        }
        None => {
            check_balance(payment, before.balance.unwrap_or_default())?;
            Simulation::Skipped
        }
        Some([Simulation::Succeeded { .. }, settled]) => settled.clone(),
        Some(_) => {
            return Err(Refusal::new(
                Reason::ApprovalTxFailed,
                "the approval would fail",
            ));
        }
    };
    Ok(Inspection {
        simulation,
        permit2: before.permit2.map(|read| PermitReading {
            allowance: approval.amount,
            ..read
        }),
        ..before
    })
}

fn check_balance(payment: &Payment, balance: AssetAmount) -> Checked {
    match balance < payment.value {
        true => Err(Refusal::new(
            Reason::Permit2InsufficientBalance,
            format!("the payer has {balance}, the payment is {}", payment.value),
        )),
        false => Ok(()),
    }
}
