//! Each kind of difference is planted once, and nothing is found where nothing was planted.
//!
//! One long file, because it is one list of differences.

use std::collections::{HashMap, HashSet};

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use teller_chain::{Log, TxReceipt};
use teller_domain::{
    AccountNonce, AssetAmount, Authorization, AuthorizationKey, AuthorizationNonce, BlockRef,
    ChainId, CompensationKind, Delegation, EcdsaSignature, Level, Payment, Reason, Receipt,
    Refusal, Settlement, SettlementId, SettlementState, SlotEnd, SlotId, SlotState, TenantId, Told,
    UnixMillis, UnixSeconds, Validity, Wei, X402Version,
};
use teller_store::AuditSlot;

use super::difference::{Difference, Kind, Subject};
use super::nonces::NonceLine;
use super::seen::Seen;
use super::tally::{Sum, Tally};
use super::{rows, slots};

const CHAIN: ChainId = ChainId(84532);
const ASSET: Address = Address::repeat_byte(0xa5);
const SIGNER: Address = Address::repeat_byte(0x51);
const STRANGER: Address = Address::repeat_byte(0x99);
const MANAGER: Address = Address::repeat_byte(0x3a);
const PAYEE: Address = Address::repeat_byte(0x42);
const TRANSACTION: B256 = B256::repeat_byte(0x71);
const BLOCK: BlockRef = BlockRef {
    number: 100,
    hash: B256::repeat_byte(0xb1),
};
const HEAD: u64 = 110;

fn payment(number: u8) -> Payment {
    Payment {
        key: AuthorizationKey {
            chain: CHAIN,
            authority: ASSET,
            payer: Address::repeat_byte(number),
            nonce: AuthorizationNonce(B256::repeat_byte(number)),
        },
        asset: ASSET,
        payee: PAYEE,
        value: AssetAmount::from(1_000 + u64::from(number)),
        validity: Validity::between(UnixSeconds(0), UnixSeconds(u64::MAX)),
        authorization: Authorization::Eip3009 {
            signature: EcdsaSignature {
                r: B256::ZERO,
                s: B256::ZERO,
                v: 27,
            }
            .into(),
        },
    }
}

fn row(number: u8, state: SettlementState) -> Settlement {
    let payment = payment(number);
    Settlement {
        id: SettlementId::fresh(),
        tenant: TenantId::new("shop"),
        version: X402Version::V2,
        attribution: alloy_primitives::Bytes::new(),
        digest: payment.digest(),
        payment,
        state,
        told: None,
        tries: 1,
        accepted_at: UnixMillis(0),
        updated_at: UnixMillis(0),
    }
}

fn receipt(number: u8, gas_used: u64, cost: u64) -> Receipt {
    Receipt {
        transaction: TRANSACTION,
        block: BLOCK,
        log_index: u64::from(number) * 2 + 1,
        level: Level::Included,
        gas_used,
        cost: Wei::from(cost),
    }
}

fn settled(number: u8, gas_used: u64, cost: u64) -> Settlement {
    row(
        number,
        SettlementState::Settled(receipt(number, gas_used, cost)),
    )
}

fn log(index: u64, topics: Vec<B256>, data: Vec<u8>) -> Log {
    Log {
        address: ASSET,
        topics,
        data: Bytes::from(data),
        index,
        transaction: TRANSACTION,
        block: BLOCK,
    }
}

/// What the token emits when it settles this payment: at twice its number, and behind it.
fn events(number: u8) -> [Log; 2] {
    let payment = payment(number);
    let payer = payment.key.payer.into_word();
    let index = u64::from(number) * 2;
    [
        log(
            index,
            vec![
                keccak256("AuthorizationUsed(address,bytes32)"),
                payer,
                payment.key.nonce.0,
            ],
            Vec::new(),
        ),
        log(
            index + 1,
            vec![
                keccak256("Transfer(address,address,uint256)"),
                payer,
                PAYEE.into_word(),
            ],
            payment.value.0.to_be_bytes::<32>().to_vec(),
        ),
    ]
}

/// A chain on which the signer's transaction settled these payments, for 90 gas and 900 wei.
fn seen(numbers: &[u8]) -> Seen {
    let mined = TxReceipt {
        transaction: TRANSACTION,
        sender: SIGNER,
        block: BLOCK,
        succeeded: true,
        gas_used: 90,
        cost: Wei::from(900),
        logs: numbers.iter().flat_map(|number| events(*number)).collect(),
    };
    Seen {
        chain: CHAIN,
        horizon: HEAD,
        signers: HashSet::from([SIGNER]),
        assets: HashSet::from([ASSET]),
        receipts: HashMap::from([(TRANSACTION, mined)]),
        given: HashMap::new(),
        canonical: HashMap::from([(BLOCK.number, BLOCK.hash)]),
    }
}

fn mined(seen: &mut Seen) -> &mut TxReceipt {
    seen.receipts.get_mut(&TRANSACTION).unwrap()
}

fn slot(nonce: u64, state: SlotState, payments: Vec<Settlement>) -> AuditSlot {
    AuditSlot {
        id: SlotId {
            chain: CHAIN,
            signer: SIGNER,
            nonce: AccountNonce(nonce),
        },
        state,
        attempts: vec![TRANSACTION],
        payments,
        top_up: None,
    }
}

fn closed(gas_used: u64, cost: u64) -> SlotState {
    SlotState::Closed {
        end: SlotEnd::Mined {
            transaction: TRANSACTION,
            gas_used,
            cost: Wei::from(cost),
        },
        block: BLOCK,
        level: Level::Included,
    }
}

fn kinds(found: &[Difference]) -> Vec<Kind> {
    found.iter().map(|difference| difference.kind).collect()
}

fn of_row(row: &Settlement, seen: &Seen) -> Vec<Kind> {
    let mut found = Vec::new();
    rows::check_settled(row, seen, &mut found);
    kinds(&found)
}

fn of_slot(slot: &AuditSlot, others: &[Settlement], seen: &Seen) -> Vec<Kind> {
    let mut found = Vec::new();
    let others = others
        .iter()
        .map(|row| (row.payment.key, row.clone()))
        .collect();
    slots::check_slot(slot, seen, &mut found);
    slots::check_slot_uses(slot, &others, seen, &mut found);
    kinds(&found)
}

#[test]
fn a_settled_row_with_its_events_is_clean() {
    assert_eq!(of_row(&settled(1, 45, 450), &seen(&[1, 2])), []);
    let failed = SettlementState::Failed {
        refusal: Refusal::new(Reason::TransactionFailed, "no"),
        transaction: None,
    };
    assert_eq!(of_row(&row(3, failed), &seen(&[])), []);
}

#[test]
fn a_row_without_its_transaction_or_in_another_block_is_found() {
    let row = settled(1, 45, 450);
    let mut chain = seen(&[1]);
    chain.receipts.clear();
    assert_eq!(of_row(&row, &chain), [Kind::TransactionMissing]);
    let mut chain = seen(&[1]);
    mined(&mut chain).block.hash = B256::ZERO;
    assert_eq!(of_row(&row, &chain), [Kind::BlockDiffers]);
    let mut chain = seen(&[1]);
    chain.canonical.insert(BLOCK.number, B256::ZERO);
    assert_eq!(of_row(&row, &chain), [Kind::BlockNotCanonical]);
    chain.canonical.clear();
    assert_eq!(of_row(&row, &chain), [Kind::BlockNotCanonical]);
}

#[test]
fn a_row_above_the_horizon_is_left_out() {
    let row = settled(1, 45, 450);
    let mut chain = seen(&[]);
    chain.horizon = BLOCK.number - 1;
    assert!(rows::is_newer(&row, &chain));
    assert_eq!(of_row(&row, &chain), []);
}

#[test]
fn a_row_whose_events_are_others_is_found() {
    let mut row = settled(1, 45, 450);
    assert_eq!(of_row(&row, &seen(&[2])), [Kind::AuthorizationNotUsed]);
    let mut reverted = seen(&[1]);
    mined(&mut reverted).succeeded = false;
    assert_eq!(of_row(&row, &reverted), [Kind::AuthorizationNotUsed]);
    let mut unpaid = seen(&[1]);
    mined(&mut unpaid).logs.pop();
    assert_eq!(of_row(&row, &unpaid), [Kind::TransferDiffers]);
    if let SettlementState::Settled(receipt) = &mut row.state {
        receipt.log_index += 1;
    }
    assert_eq!(of_row(&row, &seen(&[1])), [Kind::LogIndexDiffers]);
    let mut row = settled(1, 45, 450);
    row.payment.value = AssetAmount::from(1);
    assert_eq!(of_row(&row, &seen(&[1])), [Kind::TransferDiffers]);
}

/// A settled delegation (ERC-7710), whose transaction moves its asset and nothing else.
fn redeemed() -> Settlement {
    let delegation = Delegation::new(Bytes::from_static(&[1]), SIGNER).unwrap();
    let mut row = settled(1, 90, 900);
    row.payment.key.authority = MANAGER;
    row.payment.key.nonce = delegation.nonce();
    row.payment.authorization = Authorization::Erc7710(delegation.into());
    row
}

fn redeeming() -> Seen {
    let mut chain = seen(&[1]);
    mined(&mut chain).logs.remove(0);
    chain
}

#[test]
fn a_delegation_that_was_tampered_with_is_found() {
    const OTHER: B256 = B256::repeat_byte(0x72);
    let good = redeemed();
    assert_eq!(of_row(&good, &redeeming()), []);
    let tampered = |change: fn(&mut Settlement)| {
        let mut row = good.clone();
        change(&mut row);
        of_row(&row, &redeeming())
    };
    let elsewhere = |row: &mut Settlement, change: fn(&mut Receipt)| match &mut row.state {
        SettlementState::Settled(receipt) => change(receipt),
        other => panic!("{other:?}"),
    };
    for change in [
        |row: &mut Settlement| row.payment.payee = STRANGER,
        |row: &mut Settlement| row.payment.key.payer = STRANGER,
        |row: &mut Settlement| row.payment.value = AssetAmount::from(1_000),
        |row: &mut Settlement| row.payment.asset = STRANGER,
    ] {
        assert_eq!(tampered(change), [Kind::TransferDiffers]);
    }
    // Another transaction: one that nobody knows, and one of ours that redeemed nothing.
    let mut row = good.clone();
    elsewhere(&mut row, |receipt| receipt.transaction = OTHER);
    assert_eq!(of_row(&row, &redeeming()), [Kind::TransactionMissing]);
    let mut chain = redeeming();
    let mut idle = mined(&mut chain).clone();
    idle.transaction = OTHER;
    idle.logs.clear();
    chain.receipts.insert(OTHER, idle);
    assert_eq!(of_row(&row, &chain), [Kind::TransferDiffers]);
    let mut row = good.clone();
    elsewhere(&mut row, |receipt| receipt.log_index += 1);
    assert_eq!(of_row(&row, &redeeming()), [Kind::LogIndexDiffers]);

    // The transaction failed, was somebody else's, or moved more of the asset than that.
    let mut reverted = redeeming();
    mined(&mut reverted).succeeded = false;
    assert_eq!(of_row(&good, &reverted), [Kind::TransferDiffers]);
    let mut foreign = redeeming();
    mined(&mut foreign).sender = STRANGER;
    assert_eq!(of_row(&good, &foreign), [Kind::NotOurTransaction]);
    let mut twice = redeeming();
    let again = log(9, mined(&mut twice).logs[0].topics.clone(), vec![0; 32]);
    mined(&mut twice).logs.push(again);
    assert_eq!(of_row(&good, &twice), [Kind::TransferDiffers]);
}

#[test]
fn who_sent_the_transaction_must_fit_the_state() {
    let mut chain = seen(&[1]);
    mined(&mut chain).sender = STRANGER;
    assert_eq!(
        of_row(&settled(1, 45, 450), &chain),
        [Kind::NotOurTransaction]
    );
    let external = row(1, SettlementState::SettledExternally(receipt(1, 0, 0)));
    assert_eq!(of_row(&external, &chain), []);
    let paid = row(1, SettlementState::SettledExternally(receipt(1, 0, 1)));
    assert_eq!(of_row(&paid, &chain), [Kind::ExternalCost]);
}

#[test]
fn what_was_told_must_agree_with_the_row_or_be_compensated() {
    use CompensationKind::{FailureRestored, FailureSettled, SuccessRestored, SuccessTakenBack};
    let success = Told::Success {
        transaction: TRANSACTION,
        level: Level::Included,
        at: UnixMillis(0),
    };
    let failure = Told::Failure {
        reason: Reason::TransactionFailed,
        at: UnixMillis(0),
    };
    let check = |state: &SettlementState, told, entries: &[CompensationKind]| {
        let mut row = row(1, state.clone());
        row.told = told;
        let mut found = Vec::new();
        rows::check_told(&row, entries, &seen(&[1]), &mut found);
        kinds(&found)
    };
    let settled = SettlementState::Settled(receipt(1, 45, 450));
    let clean: &[(&SettlementState, Option<Told>, &[CompensationKind])] = &[
        (&settled, Some(success), &[]),
        (
            &settled,
            Some(success),
            &[SuccessTakenBack, SuccessRestored],
        ),
        (&settled, Some(failure), &[FailureSettled]),
        (&settled, None, &[]),
        (&SettlementState::Expired, Some(failure), &[]),
        (
            &SettlementState::Expired,
            Some(failure),
            &[FailureSettled, FailureRestored],
        ),
        (
            &SettlementState::Expired,
            Some(success),
            &[SuccessTakenBack],
        ),
        (&SettlementState::Accepted, Some(success), &[]),
    ];
    for (state, told, entries) in clean {
        assert_eq!(
            check(state, *told, entries),
            [],
            "{state:?} {told:?} {entries:?}"
        );
    }
    let wrong: &[(&SettlementState, Option<Told>, &[CompensationKind], Kind)] = &[
        (
            &SettlementState::Expired,
            Some(success),
            &[],
            Kind::ToldNotCompensated,
        ),
        (
            &SettlementState::Expired,
            Some(success),
            &[SuccessTakenBack, SuccessRestored],
            Kind::ToldNotCompensated,
        ),
        (&settled, Some(failure), &[], Kind::ToldNotCompensated),
        (
            &settled,
            Some(success),
            &[SuccessTakenBack],
            Kind::CompensationUnfounded,
        ),
        (
            &settled,
            None,
            &[FailureSettled],
            Kind::CompensationUnfounded,
        ),
        (
            &SettlementState::Expired,
            Some(failure),
            &[FailureSettled],
            Kind::CompensationUnfounded,
        ),
    ];
    for (state, told, entries, kind) in wrong {
        assert_eq!(
            check(state, *told, entries),
            [*kind],
            "{state:?} {told:?} {entries:?}"
        );
    }
}

#[test]
fn a_slot_whose_payments_share_its_cost_is_clean() {
    let payments = vec![settled(1, 45, 451), settled(2, 45, 449)];
    assert_eq!(
        of_slot(&slot(5, closed(90, 900), payments), &[], &seen(&[1, 2])),
        []
    );
}

#[test]
fn a_slot_that_settled_none_keeps_its_cost() {
    assert_eq!(
        of_slot(
            &slot(5, closed(90, 900), vec![row(1, SettlementState::Expired)]),
            &[],
            &seen(&[])
        ),
        []
    );
    // Settled by this slot's transaction after it had been given to a later slot, which carries its own cost.
    let mut guest = settled(1, 0, 0);
    guest.tries = 2;
    assert_eq!(
        of_slot(&slot(5, closed(90, 900), vec![guest]), &[], &seen(&[1])),
        []
    );
}

#[test]
fn costs_and_gas_that_do_not_match_are_found() {
    let chain = seen(&[1, 2]);
    let pair = |first: Settlement| vec![first, settled(2, 45, 450)];
    let check = |state, payments| of_slot(&slot(5, state, payments), &[], &chain);
    assert_eq!(
        check(closed(90, 900), pair(settled(1, 45, 449))),
        [Kind::SharesDiffer]
    );
    assert_eq!(
        check(closed(90, 900), pair(settled(1, 44, 450))),
        [Kind::GasSharesDiffer]
    );
    assert_eq!(
        check(closed(90, 901), pair(settled(1, 45, 451))),
        [Kind::CostDiffers]
    );
    assert_eq!(
        check(closed(91, 900), pair(settled(1, 46, 450))),
        [Kind::GasDiffers]
    );
}

#[test]
fn a_slot_whose_transaction_is_not_its_own_is_found() {
    let payments = || vec![settled(1, 90, 900)];
    let mut other = slot(5, closed(90, 900), payments());
    other.attempts = vec![B256::ZERO];
    assert_eq!(of_slot(&other, &[], &seen(&[1])), [Kind::AttemptUnknown]);
    let mut chain = seen(&[1]);
    mined(&mut chain).sender = STRANGER;
    let own = slot(5, closed(90, 900), payments());
    assert_eq!(of_slot(&own, &[], &chain), [Kind::NotOurTransaction]);
    chain.receipts.clear();
    assert_eq!(of_slot(&own, &[], &chain), [Kind::TransactionMissing]);
    let foreign = SlotState::Closed {
        end: SlotEnd::Foreign,
        block: BLOCK,
        level: Level::Included,
    };
    assert_eq!(
        of_slot(&slot(5, foreign.clone(), Vec::new()), &[], &chain),
        []
    );
    assert_eq!(
        of_slot(&slot(5, foreign, Vec::new()), &[], &seen(&[])),
        [Kind::ForeignButOurs]
    );
}

#[test]
fn an_open_slot_that_was_mined_long_ago_is_found() {
    let open = slot(5, SlotState::Open, Vec::new());
    let mut chain = seen(&[]);
    assert_eq!(of_slot(&open, &[], &chain), [Kind::OpenButMined]);
    chain.horizon = BLOCK.number + slots::BLOCKS_TO_CLOSE - 1;
    assert_eq!(of_slot(&open, &[], &chain), []);
}

#[test]
fn a_payment_that_is_assigned_to_a_closed_slot_is_found() {
    let id = slot(5, SlotState::Open, Vec::new()).id;
    let assigned = row(
        1,
        SettlementState::Assigned {
            slot: id,
            transaction: Some(TRANSACTION),
        },
    );
    let chain = seen(&[]);
    let in_closed = slot(5, closed(90, 900), vec![assigned.clone()]);
    assert_eq!(of_slot(&in_closed, &[], &chain), [Kind::SlotNotOpen]);
    let mut fresh = seen(&[]);
    fresh.receipts.clear();
    let in_open = slot(5, SlotState::Open, vec![assigned]);
    assert_eq!(of_slot(&in_open, &[], &fresh), []);
}

#[test]
fn an_authorization_that_was_used_without_a_settled_row_is_found() {
    let chain = seen(&[1, 2]);
    let alone = slot(5, closed(90, 900), vec![settled(1, 90, 900)]);
    let strange = slots::strange_uses(&alone, &chain);
    assert_eq!(strange, [payment(2).key]);
    assert_eq!(of_slot(&alone, &[], &chain), [Kind::UseWithoutRow]);
    let elsewhere = settled(2, 0, 0);
    assert_eq!(of_slot(&alone, &[elsewhere], &chain), [Kind::UseNotInSlot]);
    let expired = slot(
        5,
        closed(90, 900),
        vec![settled(1, 90, 900), row(2, SettlementState::Expired)],
    );
    assert_eq!(of_slot(&expired, &[], &chain), [Kind::UseNotSettled]);
    let external = row(2, SettlementState::SettledExternally(receipt(2, 0, 0)));
    let claimed = slot(5, closed(90, 900), vec![settled(1, 90, 900), external]);
    assert_eq!(
        of_slot(&claimed, &[], &chain),
        [Kind::OursRecordedAsExternal]
    );
}

#[test]
fn nonces_without_a_slot_are_found() {
    let chain = seen(&[]);
    let check = |slots: &[AuditSlot], sealed, next| {
        let mut found = Vec::new();
        let mut line = NonceLine::new(SIGNER, AccountNonce(sealed));
        for slot in slots {
            line.slot(slot, &chain, &mut found);
        }
        line.end(Some(AccountNonce(next)), &chain, &mut found);
        found
            .into_iter()
            .map(|difference| (difference.kind, difference.subject))
            .collect::<Vec<_>>()
    };
    let shut = |nonce| slot(nonce, closed(90, 900), Vec::new());
    let open = |nonce| slot(nonce, SlotState::Open, Vec::new());
    let nonces = |from, to| Subject::Nonces {
        signer: SIGNER,
        from,
        to,
    };
    assert_eq!(check(&[shut(5), shut(6), open(7)], 7, 8), []);
    assert_eq!(check(&[], 5, 5), []);
    assert_eq!(check(&[], 7, 5), [(Kind::NonceUnexplained, nonces(5, 7))]);
    assert_eq!(
        check(&[shut(5), shut(8)], 9, 9),
        [(Kind::NonceUnexplained, nonces(6, 8))]
    );
    assert_eq!(
        check(&[shut(5)], 7, 6),
        [(Kind::NonceUnexplained, nonces(6, 7))]
    );
    assert_eq!(
        check(&[shut(5), open(7)], 6, 8),
        [(Kind::NonceWithoutSlot, nonces(6, 7))]
    );
    assert_eq!(
        check(&[shut(5)], 6, 8),
        [(Kind::NonceWithoutSlot, nonces(6, 8))]
    );
    assert_eq!(
        check(&[shut(5), open(6)], 7, 7),
        [(Kind::SlotLeftOpen, Subject::Slot(open(6).id))]
    );
    assert_eq!(
        check(&[shut(5), shut(6)], 6, 7),
        [(Kind::ClosedAboveSealed, Subject::Slot(shut(6).id))]
    );
}

#[test]
fn sums_that_do_not_match_are_found() {
    let check = |tally: &Tally| {
        let mut found = Vec::new();
        tally.check_sums(&seen(&[]), &mut found);
        kinds(&found)
    };
    let sum = |ledger: u64, chain: u64| Sum {
        ledger: U256::from(ledger),
        chain: U256::from(chain),
    };
    let mut tally = Tally {
        cost_slots: U256::from(10),
        cost_receipts: U256::from(10),
        cost_settlements: U256::from(7),
        cost_unshared: U256::from(3),
        ..Tally::default()
    };
    tally.values.insert(ASSET, sum(5, 5));
    assert_eq!(check(&tally), []);
    tally.values.insert(ASSET, sum(5, 6));
    assert_eq!(check(&tally), [Kind::ValueSum]);
    tally.cost_settlements = U256::from(6);
    assert_eq!(check(&tally), [Kind::ValueSum, Kind::CostSum]);
}

#[test]
fn a_difference_is_one_line_and_one_object() {
    let mut chain = seen(&[1]);
    chain.receipts.clear();
    let row = settled(1, 45, 450);
    let mut found = Vec::new();
    rows::check_settled(&row, &chain, &mut found);
    let line = found[0].to_string();
    assert!(line.starts_with("DIFFERS  transaction_missing  eip155:84532  settlement "));
    assert_eq!(line.lines().count(), 1);
    let object = found[0].json();
    assert_eq!(object["difference"], "transaction_missing");
    assert_eq!(object["settlement"], row.id.to_string());
}

#[test]
fn a_top_up_is_what_its_slots_transaction_gave() {
    let made = teller_store::TopUp {
        payer: Address::repeat_byte(0x61),
        token: ASSET,
        value: Wei::from(700),
    };
    let mut topping_up = slot(5, closed(90, 900), Vec::new());
    topping_up.top_up = Some(made);
    let found = |given: Option<(Address, u64)>, succeeded| {
        let mut seen = seen(&[]);
        mined(&mut seen).succeeded = succeeded;
        let given = given.map(|(payer, value)| (TRANSACTION, (payer, Wei::from(value))));
        seen.given.extend(given);
        let mut out = Vec::new();
        super::slots::check_slot(&topping_up, &seen, &mut out);
        out.iter().map(|found| found.kind).collect::<Vec<_>>()
    };
    assert!(found(Some((made.payer, 700)), true).is_empty());
    // A no-op took the nonce, or what was sent came back.
    assert!(found(Some((SIGNER, 0)), true).is_empty());
    assert!(found(Some((SIGNER, 700)), false).is_empty());
    assert_eq!(found(Some((SIGNER, 700)), true), [Kind::TopUpDiffers]);
    assert_eq!(found(Some((made.payer, 701)), true), [Kind::TopUpDiffers]);
}
