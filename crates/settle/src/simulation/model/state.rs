//! Accounts, balances and authorizations at one block, and what a transaction does to them.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, Bytes, U256, b256};
use teller_domain::{EXACT_PROXY, PERMIT2, Reason};

use super::transaction::{Call, MANAGER, Redemption, TokenCall, Transaction};

const AUTHORIZATION_USED: B256 =
    b256!("98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5");
const AUTHORIZATION_CANCELED: B256 =
    b256!("1cdd46ff242716cdaa72d159d339a485b3438398348d68f09d7c8c0a59353d81");
pub const TRANSFER: B256 =
    b256!("ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef");

/// Frame of Multicall3, and what it spends before each call and on the call's result.
const BATCH_GAS: u64 = 2_600;
const BATCH_ITEM_GAS: u64 = 1_000;
const BATCH_RESULT_GAS: u64 = 1_100;
/// The proxy and the pause: what every call of the token costs once code and storage are warm, and what the first call
/// in a transaction pays beside it.
const TOKEN_GAS: u64 = 2_050;
const TOKEN_COLD_GAS: u64 = 8_500;
/// Reading an account's balance and blacklist flag: for the first time in a transaction, and again.
const BALANCE_COLD_GAS: u64 = 2_100;
const BALANCE_WARM_GAS: u64 = 100;
/// Writing a balance: one that was zero, another, and one that the transaction has written before.
const BALANCE_NEW_GAS: u64 = 20_000;
const BALANCE_WRITE_GAS: u64 = 2_900;
const BALANCE_REWRITE_GAS: u64 = 100;
/// `ecrecover` and the EIP-712 hashes, and what the first check in a transaction pays beside them.
const SIGNATURE_GAS: u64 = 6_550;
const SIGNATURE_COLD_GAS: u64 = 6_500;
/// Writing an authorization's state for the first time, with its log; and moving the dollars, with theirs.
const AUTHORIZATION_GAS: u64 = 23_600;
const MOVE_GAS: u64 = 3_300;
/// What the model's manager says it has redeemed, and what that takes.
pub const REDEEMED: B256 = B256::repeat_byte(0x71);
const REDEMPTION_GAS: u64 = 150_000;
/// `Settled()` of the proxies; what proxy and Permit2 take beside the token; and writing an allowance.
const SETTLED: B256 = b256!("97088ec3606cfe8cc112180570d03fcde05f9b8e1bfef8e27784eaf5dd5691b6");
const PROXY_GAS: u64 = 25_000;
const ALLOWANCE_GAS: u64 = 24_000;
/// Where a payer's code burns what it is given, this much of a hundred is left to its callers, each of which keeps a
/// 64th back.
const LEFT_BY_BURNER_PERCENT: u64 = 5;

/// What `isValidSignature` of a payer with code does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Burns all the gas that it gets, or spends it on an answer that nobody can pay to read.
    Burns,
    /// Accepts every signature.
    Accepts,
    /// Accepts none.
    Refuses,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    pub nonce: u64,
    pub wei: U256,
    pub code: Option<Code>,
}

/// What became of an authorization that is not unused any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    Used,
    Cancelled,
}

#[derive(Debug, Clone, Default)]
pub struct State {
    pub accounts: BTreeMap<Address, Account>,
    pub dollars: BTreeMap<Address, U256>,
    pub authorizations: BTreeMap<(Address, B256), Spent>,
    /// Whose tokens Permit2 may move.
    pub allowances: BTreeSet<Address>,
    /// The token keeps a unit of every transfer.
    pub takes_fee: bool,
}

/// What a transaction sees of its block.
#[derive(Debug, Clone, Copy)]
pub struct BlockEnv {
    pub timestamp: u64,
    pub base_fee: u128,
    pub token: Address,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub address: Address,
    pub topics: Vec<B256>,
    pub data: Bytes,
}

/// What a transaction did.
#[derive(Debug, Clone)]
pub struct Executed {
    pub succeeded: bool,
    pub gas_used: u64,
    pub gas_price: u128,
    pub logs: Vec<Log>,
}

/// A call that did not do what it was to do; `None` is out of gas.
type CallResult = Result<u64, (u64, Option<Reason>)>;

/// What a transaction has touched, which is cheaper to touch again.
#[derive(Clone, Default)]
struct Warm {
    token: bool,
    signatures: bool,
    read: BTreeSet<Address>,
    written: BTreeSet<Address>,
}

impl Warm {
    fn look_at(&mut self, holder: Address) -> u64 {
        if self.read.insert(holder) {
            BALANCE_COLD_GAS
        } else {
            BALANCE_WARM_GAS
        }
    }
}

impl State {
    pub fn account(&self, address: Address) -> Account {
        self.accounts.get(&address).copied().unwrap_or_default()
    }

    pub fn dollars(&self, holder: Address) -> U256 {
        self.dollars.get(&holder).copied().unwrap_or_default()
    }

    /// How much of a transfer reaches its payee.
    fn lands(&self, value: U256) -> U256 {
        value.saturating_sub(U256::from(u8::from(self.takes_fee)))
    }

    pub fn spent(&self, payer: Address, nonce: B256) -> Option<Spent> {
        self.authorizations.get(&(payer, nonce)).copied()
    }

    /// Runs a transaction whose nonce, funds and fees its block has checked.
    pub fn execute(&mut self, transaction: &Transaction, env: &BlockEnv) -> Executed {
        let gas_price = transaction.gas_price(env.base_fee);
        let account = self.accounts.entry(transaction.from).or_default();
        account.nonce += 1;
        let (intrinsic, floor) = transaction.intrinsic_gas();
        let gas = transaction.gas_limit.saturating_sub(intrinsic);
        let before = (
            self.dollars.clone(),
            self.authorizations.clone(),
            self.allowances.clone(),
        );
        let mut logs = Vec::new();
        let done = self.run(transaction, gas, env, &mut logs);
        let (succeeded, spent) = match done {
            Ok(spent) => (true, spent),
            Err((spent, _)) => (false, spent),
        };
        if !succeeded {
            (self.dollars, self.authorizations, self.allowances) = before;
            logs.clear();
        }
        let gas_used = (intrinsic + spent).max(floor).min(transaction.gas_limit);
        let cost = U256::from(gas_used) * U256::from(gas_price);
        let account = self.accounts.entry(transaction.from).or_default();
        account.wei = account.wei.saturating_sub(cost);
        if let (Call::Pay { to, value }, true) = (&transaction.call, succeeded) {
            account.wei = account.wei.saturating_sub(*value);
            self.accounts.entry(*to).or_default().wei += *value;
        }
        Executed {
            succeeded,
            gas_used,
            gas_price,
            logs,
        }
    }

    fn run(
        &mut self,
        transaction: &Transaction,
        gas: u64,
        env: &BlockEnv,
        logs: &mut Vec<Log>,
    ) -> CallResult {
        let mut warm = Warm::default();
        match &transaction.call {
            Call::Pay { .. } => Ok(0),
            Call::Redeem(redemption) => self.redeem(redemption, gas, env, logs),
            Call::Token { target, call } => {
                self.token_call(*target, transaction.from, call, gas, env, &mut warm, logs)
            }
            Call::Batch(calls) => {
                let mut left = gas.checked_sub(BATCH_GAS).ok_or((gas, None))?;
                for (target, may_fail, call) in calls {
                    left = left.checked_sub(BATCH_ITEM_GAS).ok_or((gas, None))?;
                    let given = left - left / 64;
                    let caller = teller_schemes::multicall::MULTICALL3;
                    match self.token_call(*target, caller, call, given, env, &mut warm, logs) {
                        Ok(spent) => left -= spent,
                        Err((spent, _)) if *may_fail => left -= spent,
                        Err((spent, reason)) => return Err((gas - left + spent, reason)),
                    }
                    left = left.checked_sub(BATCH_RESULT_GAS).ok_or((gas, None))?;
                }
                Ok(gas - left)
            }
        }
    }

    fn redeem(
        &mut self,
        redemption: &Redemption,
        gas: u64,
        env: &BlockEnv,
        logs: &mut Vec<Log>,
    ) -> CallResult {
        let Redemption {
            from, to, value, ..
        } = *redemption;
        match self.would_redeem(redemption, env) {
            _ if gas < REDEMPTION_GAS => return Err((gas, None)),
            Some(Reason::DelegationTransferMismatch) => return Ok(REDEMPTION_GAS),
            Some(reason) => return Err((REDEMPTION_GAS, Some(reason))),
            None => {}
        }
        *self.dollars.entry(from).or_default() -= value;
        *self.dollars.entry(to).or_default() += value;
        // Noted for those who judge; the manager itself does not ask.
        self.authorizations
            .insert((from, redemption.context), Spent::Used);
        logs.push(Log {
            address: env.token,
            topics: vec![TRANSFER, from.into_word(), to.into_word()],
            data: value.to_be_bytes::<32>().into(),
        });
        logs.push(Log {
            address: MANAGER,
            topics: vec![REDEEMED, redemption.context],
            data: Bytes::new(),
        });
        Ok(REDEMPTION_GAS)
    }

    /// Why a redemption would not pay at the end of this block's state: `None` if it would.
    pub fn would_redeem(&self, redemption: &Redemption, env: &BlockEnv) -> Option<Reason> {
        if redemption.fickle && env.timestamp.is_multiple_of(2) {
            return Some(Reason::DelegationTransferMismatch);
        }
        let short = redemption.value > self.dollars(redemption.from);
        short.then_some(Reason::DelegationSimulationFailed)
    }

    /// One call of the token with so much gas; changes nothing if it fails.
    #[allow(clippy::too_many_arguments)]
    fn token_call(
        &mut self,
        target: Address,
        caller: Address,
        call: &TokenCall,
        gas: u64,
        env: &BlockEnv,
        warm: &mut Warm,
        logs: &mut Vec<Log>,
    ) -> CallResult {
        let known = match call {
            TokenCall::Spend { .. } => EXACT_PROXY,
            _ => env.token,
        };
        if target != known {
            return Ok(2_600);
        }
        // What a call has warmed is cold again when it fails (EIP-2929).
        let before = warm.clone();
        let mut spent = TOKEN_GAS;
        if !std::mem::replace(&mut warm.token, true) {
            spent += TOKEN_COLD_GAS;
        }
        let reached = self.try_token_call(caller, call, gas, env, warm, spent);
        if !reached.as_ref().is_ok_and(|(spent, _)| *spent <= gas) {
            *warm = before;
        }
        match reached {
            Ok((spent, mut emitted)) if spent <= gas => {
                self.apply(caller, call);
                logs.append(&mut emitted);
                Ok(spent)
            }
            Ok(_) => Err((gas, None)),
            Err((spent, _)) if spent > gas => Err((gas, None)),
            Err(failure) => Err(failure),
        }
    }

    /// Gas and logs of a call that would pass; the reason of one that would not.
    fn try_token_call(
        &self,
        caller: Address,
        call: &TokenCall,
        gas: u64,
        env: &BlockEnv,
        warm: &mut Warm,
        mut spent: u64,
    ) -> Result<(u64, Vec<Log>), (u64, Option<Reason>)> {
        let log = |topics: Vec<B256>, data: Bytes| Log {
            address: env.token,
            topics,
            data,
        };
        let moved = |from: Address, to: Address, value: U256| {
            let topics = vec![TRANSFER, from.into_word(), to.into_word()];
            log(topics, value.to_be_bytes::<32>().into())
        };
        match call {
            TokenCall::TransferWithAuthorization {
                from,
                to,
                value,
                valid_after,
                valid_before,
                nonce,
            } => {
                spent += warm.look_at(*from) + warm.look_at(*to);
                if env.timestamp <= valid_after.0 {
                    return Err((spent, Some(Reason::ValidAfter)));
                }
                if env.timestamp >= valid_before.0 {
                    return Err((spent, Some(Reason::ValidBefore)));
                }
                if self.spent(*from, *nonce).is_some() {
                    return Err((spent + 2_100, Some(Reason::NonceAlreadyUsed)));
                }
                spent += self.check_signature(*from, gas, spent, warm)?;
                spent += AUTHORIZATION_GAS;
                if *value > self.dollars(*from) {
                    return Err((spent + 1_000, Some(Reason::InsufficientBalance)));
                }
                spent += self.move_gas(*from, *to, warm);
                let used = log(
                    vec![AUTHORIZATION_USED, from.into_word(), *nonce],
                    Bytes::new(),
                );
                Ok((spent, vec![used, moved(*from, *to, self.lands(*value))]))
            }
            TokenCall::CancelAuthorization { authorizer, nonce } => {
                if self.spent(*authorizer, *nonce).is_some() {
                    return Err((spent + 2_100, Some(Reason::NonceAlreadyUsed)));
                }
                spent += self.check_signature(*authorizer, gas, spent, warm)?;
                spent += AUTHORIZATION_GAS;
                let topics = vec![AUTHORIZATION_CANCELED, authorizer.into_word(), *nonce];
                Ok((spent, vec![log(topics, Bytes::new())]))
            }
            TokenCall::Approve { .. } => Ok((spent + ALLOWANCE_GAS, Vec::new())),
            TokenCall::Spend {
                from,
                to,
                value,
                deadline,
                nonce,
            } => {
                spent += PROXY_GAS + warm.look_at(*from) + warm.look_at(*to);
                if env.timestamp > deadline.0 {
                    return Err((spent, Some(Reason::Permit2InvalidSignature)));
                }
                if self.spent(*from, *nonce).is_some() {
                    return Err((spent, Some(Reason::Permit2InvalidNonce)));
                }
                spent += self.check_signature(*from, gas, spent, warm)?;
                spent += AUTHORIZATION_GAS;
                if !self.allowances.contains(from) {
                    return Err((spent, Some(Reason::Permit2AllowanceRequired)));
                }
                if *value > self.dollars(*from) {
                    return Err((spent, Some(Reason::Permit2InsufficientBalance)));
                }
                spent += self.move_gas(*from, *to, warm);
                let settled = Log {
                    address: EXACT_PROXY,
                    topics: vec![SETTLED],
                    data: Bytes::new(),
                };
                // Permit2 emits nothing: this is for those who judge.
                let noted = Log {
                    address: PERMIT2,
                    topics: vec![REDEEMED, from.into_word(), *nonce],
                    data: Bytes::new(),
                };
                let moved = moved(*from, *to, self.lands(*value));
                Ok((spent, vec![moved, settled, noted]))
            }
            TokenCall::Transfer { to, value } => {
                spent += warm.look_at(caller) + warm.look_at(*to);
                spent += self.move_gas(caller, *to, warm);
                if *value > self.dollars(caller) {
                    return Err((spent, Some(Reason::InsufficientBalance)));
                }
                Ok((spent, vec![moved(caller, *to, self.lands(*value))]))
            }
        }
    }

    /// Gas of the check; signatures of plain accounts are good.
    fn check_signature(
        &self,
        signer: Address,
        gas: u64,
        spent: u64,
        warm: &mut Warm,
    ) -> Result<u64, (u64, Option<Reason>)> {
        let mut check = SIGNATURE_GAS;
        if !std::mem::replace(&mut warm.signatures, true) {
            check += SIGNATURE_COLD_GAS;
        }
        match self.account(signer).code {
            None => Ok(check),
            Some(Code::Accepts) => Ok(check + 4_000),
            Some(Code::Refuses) => Err((spent + check + 4_000, Some(Reason::InvalidSignature))),
            Some(Code::Burns) => {
                let left = gas.saturating_sub(spent) * LEFT_BY_BURNER_PERCENT / 100;
                Err((gas.saturating_sub(left), Some(Reason::InvalidSignature)))
            }
        }
    }

    fn move_gas(&self, from: Address, to: Address, warm: &mut Warm) -> u64 {
        let mut write = |holder: Address| {
            if !warm.written.insert(holder) {
                BALANCE_REWRITE_GAS
            } else if self.dollars(holder).is_zero() {
                BALANCE_NEW_GAS
            } else {
                BALANCE_WRITE_GAS
            }
        };
        MOVE_GAS + write(from) + write(to)
    }

    fn apply(&mut self, caller: Address, call: &TokenCall) {
        let fee = U256::from(u8::from(self.takes_fee));
        let mut pay = |from: Address, to: Address, value: U256| {
            *self.dollars.entry(from).or_default() -= value;
            *self.dollars.entry(to).or_default() += value.saturating_sub(fee);
        };
        match call {
            TokenCall::TransferWithAuthorization {
                from,
                to,
                value,
                nonce,
                ..
            } => {
                pay(*from, *to, *value);
                self.authorizations.insert((*from, *nonce), Spent::Used);
            }
            TokenCall::CancelAuthorization { authorizer, nonce } => {
                self.authorizations
                    .insert((*authorizer, *nonce), Spent::Cancelled);
            }
            TokenCall::Transfer { to, value } => pay(caller, *to, *value),
            TokenCall::Approve { value } if value.is_zero() => {
                self.allowances.remove(&caller);
            }
            TokenCall::Approve { .. } => {
                self.allowances.insert(caller);
            }
            TokenCall::Spend {
                from,
                to,
                value,
                nonce,
                ..
            } => {
                pay(*from, *to, *value);
                self.authorizations.insert((*from, *nonce), Spent::Used);
            }
        }
    }

    /// What the call would do at the end of this block's state: `None` if it would pass.
    pub fn would_fail(&self, call: &TokenCall, env: &BlockEnv) -> Option<Option<Reason>> {
        const AMPLE: u64 = 1_000_000;
        let mut warm = Warm::default();
        let reached = self.try_token_call(Address::ZERO, call, AMPLE, env, &mut warm, TOKEN_GAS);
        reached.err().map(|(_, reason)| reason)
    }
}
