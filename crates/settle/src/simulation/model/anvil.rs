//! The model chain against a real node: the same seeded scripts run on both, and what they show must agree after
//! every step.
//!
//! Compared: the answer to each send (its class), and after each block and reorg which transactions it holds in which
//! order, the base fee, of each receipt the status and the logs (addresses, topics, data, order, indexes), and of every
//! account its nonce, its dollars and its authorizations. Gas used agrees within [`GAS_TOLERANCE_PERCENT`] where no
//! hostile payer is in the transaction; its wei are what the node's gas makes them. Timestamps are the node's.
//!
//! Longer than most files: what a script does and what is compared after it only make sense side by side.
//!
//! A long file, because the scripts, both runs of them and the comparison are one test.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, Keccak256, U256, keccak256};
use alloy_sol_types::{SolCall, sol};
use serde_json::{Value, json};
use teller_chain::{LocalSigner, NodeConfig, Nodes};
use teller_devnet::contracts::{Contract, MULTICALL3, NAME, TEST_DOLLAR, VERSION};
use teller_devnet::{Devnet, DevnetConfig, Mining, keys};
use teller_domain::{
    AccountNonce, Asset, AssetAmount, Attempt, Authorization, AuthorizationKey, AuthorizationNonce,
    BlockRef, ChainId, Fees, Payment, UnixSeconds, Validity,
};
use teller_schemes::{eip3009, multicall};

use super::chain::{Chain, ChainRules, Receipt, SealPlan, Sealed};
use super::pool::{Pool, PoolRules};
use super::state::{Account, Code, Spent, State};
use super::transaction::{Transaction, cancelAuthorizationCall};
use crate::simulation::rng::Rng;

const CHAIN: ChainId = ChainId(84532);
const SCRIPTS: u64 = 40;
const STEPS: usize = 24;
const GAS_TOLERANCE_PERCENT: u64 = 5;
const PAYERS: usize = 6;
const SIGNERS: usize = 3;
const GWEI: u128 = 1_000_000_000;

sol! {
    function balanceOf(address account) external view returns (uint256);
}

/// anvil 1.7.
const ANVIL_POOL: PoolRules = PoolRules {
    bump_percent: None,
    demands_base_fee: true,
    by_max_fee: true,
    forgets_invalid: true,
};

fn asset() -> Asset {
    Asset {
        chain: CHAIN,
        address: TEST_DOLLAR,
        name: NAME.to_owned(),
        version: VERSION.to_owned(),
        decimals: 6,
    }
}

fn quantity(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

fn hash_of(value: &Value) -> B256 {
    value.as_str().unwrap().parse().unwrap()
}

/// Both chains, and a script that is being run on them.
struct Duel {
    devnet: Arc<Devnet>,
    nodes: Nodes,
    chain: Chain,
    pool: Pool,
    rng: Rng,
    start: u64,
    signers: Vec<LocalSigner>,
    payers: Vec<(B256, Address)>,
    payees: Vec<Address>,
    made: Vec<Payment>,
    sent: Vec<Attempt>,
    by: BTreeMap<B256, usize>,
    trace: Vec<String>,
    compared: u64,
}

impl Duel {
    async fn begin(devnet: &Arc<Devnet>, nodes: &Nodes, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let keys = devnet.info().payers.clone();
        let address = |key: &B256| LocalSigner::from_hex(&key.to_string()).unwrap().address();
        let mut payers: Vec<(B256, Address)> = keys.iter().map(|k| (*k, address(k))).collect();
        let broke = B256::from(rng.bytes32());
        payers.push((broke, address(&broke)));
        let mut signers: Vec<LocalSigner> = (0..SIGNERS)
            .map(|index| LocalSigner::from_hex(&keys::signer(index).to_string()).unwrap())
            .collect();
        signers.push(LocalSigner::from_hex(&B256::from(rng.bytes32()).to_string()).unwrap());
        let payees = (0..2)
            .map(|_| Address::from_slice(&rng.bytes32()[..20]))
            .collect();
        let poor = json!([signers[SIGNERS].address(), "0x2386f26fc10000"]);
        devnet.rpc("anvil_setBalance", poor).await.unwrap();
        let floor = json!([format!("{:#x}", GWEI)]);
        devnet
            .rpc("anvil_setNextBlockBaseFeePerGas", floor)
            .await
            .unwrap();
        devnet.rpc("evm_mine", json!([])).await.unwrap();
        let mut duel = Self {
            chain: Chain::new(rules(), genesis(devnet).await),
            devnet: Arc::clone(devnet),
            nodes: nodes.clone(),
            pool: Pool::new(ANVIL_POOL),
            rng,
            start: 0,
            signers,
            payers,
            payees,
            made: Vec::new(),
            sent: Vec::new(),
            by: BTreeMap::new(),
            trace: Vec::new(),
            compared: 0,
        };
        duel.start = duel.chain.head().block.number;
        let state = duel.read_state().await;
        duel.chain.cheat(|known| *known = state);
        duel
    }

    async fn read(&self, to: Address, data: Vec<u8>) -> U256 {
        let call = json!([{ "to": to, "data": Bytes::from(data) }, "latest"]);
        let answer = self.devnet.rpc("eth_call", call).await.unwrap();
        let answer: Bytes = serde_json::from_value(answer).unwrap();
        U256::from_be_slice(&answer)
    }

    async fn read_state(&self) -> State {
        let mut state = State::default();
        for signer in &self.signers {
            let address = signer.address();
            let nonce = json!([address, "latest"]);
            let nonce = self
                .devnet
                .rpc("eth_getTransactionCount", nonce)
                .await
                .unwrap();
            let wei = self
                .devnet
                .rpc("eth_getBalance", json!([address, "latest"]))
                .await;
            let account = Account {
                nonce: quantity(&nonce),
                wei: serde_json::from_value(wei.unwrap()).unwrap(),
                code: None,
            };
            state.accounts.insert(address, account);
        }
        for holder in self.holders() {
            let call = balanceOfCall { account: holder }.abi_encode();
            state
                .dollars
                .insert(holder, self.read(TEST_DOLLAR, call).await);
        }
        state
    }

    fn holders(&self) -> Vec<Address> {
        let payers = self.payers.iter().map(|(_, address)| *address);
        payers.chain(self.payees.iter().copied()).collect()
    }

    fn fail(&self, what: &str) -> ! {
        panic!("{what}\nafter:\n  {}", self.trace.join("\n  "));
    }

    // ---- what a script is made of ----

    fn payment(&mut self) -> Payment {
        if !self.made.is_empty() && self.rng.chance(150) {
            return self.rng.pick(&self.made).clone();
        }
        let (key, payer) = *self.rng.pick(&self.payers);
        let now = self.chain.head().timestamp;
        let (after, before) = match self.rng.below(10) {
            0 => (0, now.saturating_sub(1_000)),
            1 => (now + 100_000, now + 200_000),
            _ => (0, now + 100_000),
        };
        let value = match self.rng.below(8) {
            0 => 600_000_000,
            _ => self.rng.between(1, 1_000_000),
        };
        let mut payment = Payment {
            key: AuthorizationKey {
                chain: CHAIN,
                authority: TEST_DOLLAR,
                payer,
                nonce: AuthorizationNonce(B256::from(self.rng.bytes32())),
            },
            asset: TEST_DOLLAR,
            payee: *self.rng.pick(&self.payees),
            value: AssetAmount::from(value),
            validity: Validity::between(UnixSeconds(after), UnixSeconds(before)),
            authorization: Authorization::Eip3009 {
                signature: teller_schemes::sign(B256::ZERO, &key.0).unwrap().into(),
            },
        };
        let digest = eip3009::Domain::new(&asset()).digest(&payment);
        let signature = teller_schemes::sign(digest, &key.0).unwrap();
        payment.authorization = Authorization::Eip3009 {
            signature: signature.into(),
        };
        self.made.push(payment.clone());
        payment
    }

    fn cancellation(&mut self) -> Option<Bytes> {
        let payment = self
            .made
            .get(self.rng.index(self.made.len().max(1)))?
            .clone();
        let payer = payment.key.payer;
        let (key, _) = self.payers.iter().find(|(_, address)| *address == payer)?;
        let kind = keccak256("CancelAuthorization(address authorizer,bytes32 nonce)");
        let mut content = Keccak256::new();
        content.update(kind);
        content.update(payer.into_word());
        content.update(payment.key.nonce.0);
        let mut digest = Keccak256::new();
        digest.update([0x19, 0x01]);
        digest.update(eip3009::Domain::new(&asset()).separator());
        digest.update(content.finalize());
        let signature = teller_schemes::sign(digest.finalize(), &key.0).unwrap();
        let call = cancelAuthorizationCall {
            authorizer: payer,
            nonce: payment.key.nonce.0,
            v: signature.v,
            r: signature.r,
            s: signature.s,
        };
        Some(call.abi_encode().into())
    }

    fn fees(&mut self) -> Fees {
        let base = self.chain.base_fee_after(self.chain.head());
        let tip = u128::from(self.rng.between(1_000_000, 2_000_000_000));
        let multiple = u128::from(self.rng.between(2, 6));
        Fees {
            max_fee_per_gas: base * multiple + tip,
            max_priority_fee_per_gas: tip,
        }
    }

    /// Signs and sends something new, or outbids, repeats or comes too late with something old.
    async fn send_something(&mut self) {
        let by = self.rng.index(self.signers.len());
        let signer = self.signers[by].clone();
        let sealed = self.chain.head().state.account(signer.address()).nonce;
        let waiting = self.pool.transactions();
        let waiting = waiting
            .filter(|waiting| waiting.from == signer.address())
            .count() as u64;
        if !self.sent.is_empty() && self.rng.chance(250) {
            return self.send_again().await;
        }
        let nonce = match self.rng.below(12) {
            0 => sealed.saturating_sub(1),
            1 => sealed + waiting + 1,
            _ => sealed + waiting,
        };
        let (nonce, fees) = (AccountNonce(nonce), self.fees());
        let kind = self.rng.below(10);
        let attempt = match kind {
            0 | 1 => signer.sign_noop(CHAIN, nonce, fees),
            2..=4 => {
                let payment = self.payment();
                let call = eip3009::transfer_call(&payment);
                signer.sign_batch(CHAIN, nonce, TEST_DOLLAR, call, 140_000, fees)
            }
            5 if !self.made.is_empty() => {
                let Some(call) = self.cancellation() else {
                    return;
                };
                signer.sign_batch(CHAIN, nonce, TEST_DOLLAR, call, 140_000, fees)
            }
            6 => {
                let call = eip3009::transfer_call(&self.payment());
                signer.sign_batch(CHAIN, nonce, TEST_DOLLAR, call, 17_000_000, fees)
            }
            _ => {
                let count = self.rng.between(2, 12);
                let payments: Vec<Payment> = (0..count).map(|_| self.payment()).collect();
                let calls = payments
                    .iter()
                    .map(|p| (p.asset, eip3009::transfer_call(p)));
                let data = multicall::aggregate(calls);
                let starved = self.rng.chance(80);
                let gas = if starved {
                    130_000
                } else {
                    80_000 * count + 60_000
                };
                signer.sign_batch(CHAIN, nonce, MULTICALL3, data, gas, fees)
            }
        };
        let attempt = attempt.unwrap();
        self.by.insert(attempt.hash, by);
        self.sent.push(attempt.clone());
        self.send(&attempt).await;
    }

    async fn send_again(&mut self) {
        let index = self.rng.index(self.sent.len());
        let old = self.sent[index].clone();
        let by = self.by[&old.hash];
        let raised = |fee: u128, percent: u128| fee + (fee * percent).div_ceil(100);
        let percent = match self.rng.below(3) {
            // anvil has another answer for one that it knows and that cannot be mined yet.
            0 if self
                .pool
                .waits_behind_a_gap(old.hash, &self.chain.head().state) =>
            {
                return;
            }
            0 => return self.send(&old).await,
            1 => 5,
            _ => 13,
        };
        let fees = Fees {
            max_fee_per_gas: raised(old.fees.max_fee_per_gas, percent),
            max_priority_fee_per_gas: raised(old.fees.max_priority_fee_per_gas, percent),
        };
        let attempt = self.signers[by].outbid(&old, fees).unwrap();
        self.by.insert(attempt.hash, by);
        self.sent.push(attempt.clone());
        self.send(&attempt).await;
    }

    async fn send(&mut self, attempt: &Attempt) {
        let from = self.signers[self.by[&attempt.hash]].address();
        let transaction = Arc::new(Transaction::decode(&attempt.raw, from));
        assert_eq!(transaction.hash, attempt.hash);
        let head = Arc::clone(self.chain.head());
        let base_fee = self.chain.base_fee_after(&head);
        let ours = self
            .pool
            .submit(Arc::clone(&transaction), &head.state, base_fee);
        let theirs = self.nodes.send(&attempt.raw).await;
        self.trace.push(format!(
            "send {} nonce {} gas {} fees {:?} {:?} -> {ours:?}",
            attempt.hash,
            transaction.nonce,
            transaction.gas_limit,
            transaction.fees,
            transaction.call,
        ));
        if ours != theirs {
            self.fail(&format!("the model said {ours:?}, anvil {theirs:?}"));
        }
        self.compared += 1;
    }

    async fn block(&self, number: u64) -> Value {
        let asked = json!([format!("{number:#x}"), false]);
        self.devnet
            .rpc("eth_getBlockByNumber", asked)
            .await
            .unwrap()
    }

    async fn mine(&mut self) {
        let time = self.chain.head().timestamp + self.rng.between(1, 5);
        self.devnet
            .rpc("evm_setNextBlockTimestamp", json!([time]))
            .await
            .unwrap();
        self.devnet.rpc("evm_mine", json!([])).await.unwrap();
        let plan = SealPlan {
            timestamp: time,
            ..SealPlan::default()
        };
        let sealed = self.chain.seal(&mut self.pool, &plan);
        self.trace.push(format!(
            "mine {}: {:?}",
            sealed.block.number,
            sealed
                .receipts
                .iter()
                .map(|r| r.transaction.hash)
                .collect::<Vec<_>>()
        ));
        self.compare_from(sealed.block.number).await;
    }

    async fn spike(&mut self) {
        let base_fee = u128::from(self.rng.between(300, 3_000)) * GWEI / 1_000;
        let floor = json!([format!("{base_fee:#x}")]);
        self.devnet
            .rpc("anvil_setNextBlockBaseFeePerGas", floor)
            .await
            .unwrap();
        self.chain.set_next_base_fee(base_fee);
        self.trace.push(format!("next base fee {base_fee}"));
    }

    fn depth(&mut self) -> Option<usize> {
        let blocks = self.chain.head().block.number - self.start;
        if blocks == 0 || self.pool.len() > 0 {
            return None;
        }
        Some(self.rng.between(1, blocks.min(3)) as usize)
    }

    /// Blocks are gone; some of their transactions are sent again, in another order.
    async fn roll_back(&mut self) {
        let Some(depth) = self.depth() else { return };
        self.devnet
            .rpc("anvil_rollback", json!([depth]))
            .await
            .unwrap();
        let orphans = self.chain.unseal(depth);
        self.trace.push(format!("roll back {depth}"));
        self.compare_accounts().await;
        // The next base fee after a roll-back is the node's affair.
        let base_fee = self.chain.head().base_fee;
        let floor = json!([format!("{base_fee:#x}")]);
        self.devnet
            .rpc("anvil_setNextBlockBaseFeePerGas", floor)
            .await
            .unwrap();
        self.chain.set_next_base_fee(base_fee);
        let mut again: Vec<Attempt> = orphans
            .iter()
            .filter_map(|orphan| {
                self.sent
                    .iter()
                    .find(|sent| sent.hash == orphan.hash)
                    .cloned()
            })
            .collect();
        self.rng.shuffle(&mut again);
        for attempt in again {
            if self.rng.chance(800) {
                self.send(&attempt).await;
            }
        }
    }

    /// As many other blocks, with the same transactions in other blocks or with fewer of them.
    async fn reorg(&mut self) {
        let Some(depth) = self.depth() else { return };
        let fork = self.chain.head().block.number - depth as u64;
        let orphans = self.chain.unseal(depth);
        let mut blocks: Vec<Vec<Arc<Transaction>>> = vec![Vec::new(); depth];
        let mut earliest: BTreeMap<Address, usize> = BTreeMap::new();
        for orphan in orphans {
            // A sender's transactions keep their order, and one that is left out leaves out those behind it.
            let from = earliest.entry(orphan.from).or_default();
            *from += self.rng.index(2);
            if *from < depth {
                blocks[*from].push(orphan);
            }
        }
        let pairs: Vec<Value> = blocks
            .iter()
            .enumerate()
            .flat_map(|(index, block)| block.iter().map(move |t| json!([t.raw, index])))
            .collect();
        self.devnet
            .rpc("anvil_reorg", json!([depth, pairs]))
            .await
            .unwrap();
        self.trace.push(format!("reorg {depth}"));
        for (index, first) in blocks.into_iter().enumerate() {
            let seen = self.block(fork + 1 + index as u64).await;
            // How anvil carries the base fee and the time over a fork is its affair.
            self.chain
                .set_next_base_fee(u128::from(quantity(&seen["baseFeePerGas"])));
            let plan = SealPlan {
                timestamp: quantity(&seen["timestamp"]),
                room: Some(first.len()),
                first,
                ..SealPlan::default()
            };
            let sealed = self.chain.seal(&mut self.pool, &plan);
            self.trace.push(format!(
                "reorged {}: {:?}",
                sealed.block.number,
                sealed
                    .receipts
                    .iter()
                    .map(|r| r.transaction.hash)
                    .collect::<Vec<_>>()
            ));
        }
        self.compare_from(fork + 1).await;
    }

    // ---- comparing ----

    async fn compare_from(&mut self, number: u64) {
        for number in number..=self.chain.head().block.number {
            let sealed = Arc::clone(self.chain.at(number).unwrap());
            self.compare_block(&sealed).await;
        }
        self.compare_accounts().await;
        let head = self.devnet.rpc("eth_blockNumber", json!([])).await.unwrap();
        assert_eq!(quantity(&head), self.chain.head().block.number);
    }

    async fn compare_block(&mut self, sealed: &Sealed) {
        let seen = self.block(sealed.block.number).await;
        let theirs: Vec<B256> = seen["transactions"]
            .as_array()
            .unwrap()
            .iter()
            .map(hash_of)
            .collect();
        let ours: Vec<B256> = sealed.receipts.iter().map(|r| r.transaction.hash).collect();
        if ours != theirs {
            self.fail(&format!(
                "block {}: ours {ours:?}, theirs {theirs:?}",
                sealed.block.number
            ));
        }
        if u128::from(quantity(&seen["baseFeePerGas"])) != sealed.base_fee {
            self.fail(&format!(
                "base fee: ours {}, theirs {}",
                sealed.base_fee, seen["baseFeePerGas"]
            ));
        }
        for receipt in &sealed.receipts {
            let asked = json!([receipt.transaction.hash]);
            let seen = self
                .devnet
                .rpc("eth_getTransactionReceipt", asked)
                .await
                .unwrap();
            self.compare_receipt(receipt, &seen, sealed);
            self.compared += 1;
        }
        // The node's gas is the truth from here on: balances in wei and the next base fee follow from it.
        self.adopt_gas(sealed, &seen).await;
    }

    fn compare_receipt(&self, ours: &Receipt, theirs: &Value, sealed: &Sealed) {
        let hash = ours.transaction.hash;
        if hash_of(&theirs["blockHash"]) == B256::ZERO
            || (quantity(&theirs["status"]) == 1) != ours.succeeded
        {
            self.fail(&format!(
                "{hash}: ours succeeded: {}, theirs {}",
                ours.succeeded, theirs["status"]
            ));
        }
        let from: Address = theirs["from"].as_str().unwrap().parse().unwrap();
        assert_eq!(from, ours.transaction.from);
        let logs = theirs["logs"].as_array().unwrap();
        if logs.len() != ours.logs.len() {
            self.fail(&format!(
                "{hash}: {} logs, theirs {}: {theirs}",
                ours.logs.len(),
                logs.len()
            ));
        }
        for (index, (log, seen)) in ours.logs.iter().zip(logs).enumerate() {
            let topics: Vec<B256> = seen["topics"]
                .as_array()
                .unwrap()
                .iter()
                .map(hash_of)
                .collect();
            let data: Bytes = seen["data"].as_str().unwrap().parse().unwrap();
            let address: Address = seen["address"].as_str().unwrap().parse().unwrap();
            let same = address == log.address && topics == log.topics && data == log.data;
            let place = quantity(&seen["logIndex"]) == ours.first_log + index as u64;
            if !same || !place {
                self.fail(&format!("{hash}: log {index}: {log:?}, theirs {seen}"));
            }
        }
        let (used, real) = (ours.gas_used, quantity(&theirs["gasUsed"]));
        let state = &sealed.state;
        let hostile = ours
            .transaction
            .token_calls()
            .iter()
            .any(|call| match call {
                super::transaction::TokenCall::TransferWithAuthorization { from, .. } => {
                    state.account(*from).code.is_some()
                }
                super::transaction::TokenCall::CancelAuthorization { authorizer, .. } => {
                    state.account(*authorizer).code.is_some()
                }
                super::transaction::TokenCall::Transfer { .. }
                | super::transaction::TokenCall::Approve { .. }
                | super::transaction::TokenCall::Spend { .. } => false,
            });
        if !hostile && used.abs_diff(real) * 100 > real * GAS_TOLERANCE_PERCENT {
            self.fail(&format!("{hash}: gas {used}, theirs {real}"));
        }
    }

    /// Gas is only nearly the same; what follows from it is compared on the node's numbers.
    async fn adopt_gas(&mut self, sealed: &Sealed, seen: &Value) {
        if sealed.block.number != self.chain.head().block.number {
            return;
        }
        let used = quantity(&seen["gasUsed"]);
        let mut wei = Vec::new();
        for signer in &self.signers {
            let asked = json!([signer.address(), "latest"]);
            let read = self.devnet.rpc("eth_getBalance", asked).await.unwrap();
            wei.push((
                signer.address(),
                serde_json::from_value::<U256>(read).unwrap(),
            ));
        }
        self.chain.correct(used, |state| {
            for (address, wei) in wei {
                state.accounts.entry(address).or_default().wei = wei;
            }
        });
    }

    async fn compare_accounts(&mut self) {
        let state = Arc::clone(&self.chain.head().state);
        for signer in &self.signers {
            let asked = json!([signer.address(), "latest"]);
            let seen = self
                .devnet
                .rpc("eth_getTransactionCount", asked)
                .await
                .unwrap();
            if quantity(&seen) != state.account(signer.address()).nonce {
                self.fail(&format!("nonce of {}", signer.address()));
            }
        }
        for holder in self.holders() {
            let seen = self
                .read(TEST_DOLLAR, balanceOfCall { account: holder }.abi_encode())
                .await;
            if seen != state.dollars(holder) {
                self.fail(&format!(
                    "dollars of {holder}: {}, theirs {seen}",
                    state.dollars(holder)
                ));
            }
        }
        for payment in &self.made {
            let call = eip3009::authorization_state_call(payment.key.payer, payment.key.nonce.0);
            let seen = !self.read(TEST_DOLLAR, call.to_vec()).await.is_zero();
            let ours: Option<Spent> = state.spent(payment.key.payer, payment.key.nonce.0);
            if seen != ours.is_some() {
                self.fail(&format!(
                    "authorization {:?}: {ours:?}, theirs {seen}",
                    payment.key
                ));
            }
        }
        self.compared += (self.signers.len() + self.made.len() + self.payers.len()) as u64;
    }

    /// A payer becomes a contract.
    async fn delegate(&mut self) {
        let payer = self.payers[self.rng.index(PAYERS)].1;
        let mode = self.rng.below(5);
        let code = Contract::HostileWallet.runtime().unwrap();
        self.devnet
            .rpc("anvil_setCode", json!([payer, code]))
            .await
            .unwrap();
        let mode_word = json!([payer, B256::ZERO, B256::from(U256::from(mode))]);
        self.devnet
            .rpc("anvil_setStorageAt", mode_word)
            .await
            .unwrap();
        let code = match mode {
            0..=2 => Code::Burns,
            3 => Code::Accepts,
            _ => Code::Refuses,
        };
        self.chain
            .cheat(|state| state.accounts.entry(payer).or_default().code = Some(code));
        self.trace.push(format!("{payer} has code in mode {mode}"));
    }

    async fn step(&mut self) {
        match self.rng.below(20) {
            0..=11 => self.send_something().await,
            12..=15 => self.mine().await,
            16 => self.spike().await,
            17 => self.roll_back().await,
            _ => self.reorg().await,
        }
    }
}

fn rules() -> ChainRules {
    ChainRules {
        token: TEST_DOLLAR,
        gas_limit: 400_000_000,
        elasticity: 2,
        denominator: 8,
        base_fee_floor: 0,
        data_fee: 0,
    }
}

async fn genesis(devnet: &Devnet) -> Sealed {
    let asked = json!(["latest", false]);
    let seen = devnet.rpc("eth_getBlockByNumber", asked).await.unwrap();
    Sealed {
        block: BlockRef {
            number: quantity(&seen["number"]),
            hash: hash_of(&seen["hash"]),
        },
        parent: hash_of(&seen["parentHash"]),
        timestamp: quantity(&seen["timestamp"]),
        base_fee: u128::from(quantity(&seen["baseFeePerGas"])),
        gas_used: quantity(&seen["gasUsed"]),
        receipts: Vec::new(),
        state: Arc::new(State::default()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_chain_and_anvil_agree_on_random_scripts() {
    let config = DevnetConfig {
        mining: Mining::Manual,
        payers: PAYERS,
        signers: SIGNERS,
        ..DevnetConfig::default()
    };
    let devnet = Arc::new(
        Devnet::start(config)
            .await
            .expect("anvil is needed: make tools"),
    );
    let nodes = Nodes::connect(NodeConfig {
        chain: CHAIN,
        rpc: vec![devnet.rpc_url().to_owned()],
        flashblocks: Vec::new(),
        request_timeout: std::time::Duration::from_secs(5),
    })
    .unwrap();
    let mut compared = 0;
    let only = std::env::var("TELLER_MODEL_SEED")
        .ok()
        .map(|seed| seed.parse().unwrap());
    for seed in only.map_or(0..SCRIPTS, |seed| seed..seed + 1) {
        let snapshot = devnet.rpc("evm_snapshot", json!([])).await.unwrap();
        let mut duel = Duel::begin(&devnet, &nodes, seed).await;
        duel.trace
            .push(format!("seed {seed}: TELLER_MODEL_SEED={seed} replays it"));
        if seed % 4 == 3 {
            duel.delegate().await;
        }
        for _ in 0..STEPS {
            duel.step().await;
        }
        duel.mine().await;
        compared += duel.compared;
        devnet
            .rpc("anvil_dropAllTransactions", json!([]))
            .await
            .unwrap();
        devnet.rpc("evm_revert", json!([snapshot])).await.unwrap();
    }
    println!("{SCRIPTS} scripts of {STEPS} steps, {compared} comparisons");
    assert!(only.is_some() || compared > 5_000, "{compared}");
}
