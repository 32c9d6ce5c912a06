//! The chain as time passes: blocks, gossip, Flashblocks and reorgs; and the watcher of a process that follows it.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_primitives::B256;
use teller_domain::{BlockRef, UnixSeconds};

use super::model::chain::{SealPlan, Sealed};
use super::model::pool::{Pool, PoolRules};
use super::model::transaction::Transaction;
use super::world::{BLOCK_MS, FINAL_DEPTH, Job, SAFE_DEPTH, World};
use crate::core::Event;

impl World<'_> {
    pub fn seal(&mut self) {
        let flashblock = self.flashblock.take();
        let mut plan = SealPlan {
            timestamp: self.chain_seconds(),
            other_gas: 80_000_000 + self.rng.below(40_000_000) - 20_000_000,
            ..SealPlan::default()
        };
        let now = self.now_ms;
        self.withheld.retain(|_, until| *until > now);
        plan.withheld = self.withheld.keys().copied().collect();
        if self.stuck_until_ms > now {
            plan.room = Some(0);
        }
        if let Some(flashblock) = flashblock {
            // Mostly the sealed block is what the Flashblocks were.
            let same = self.quiet || self.rng.chance(850);
            if !same {
                self.check.fault("flashblock vanishes");
                let shown = flashblock.receipts.iter().map(|r| r.transaction.hash);
                plan.withheld.extend(shown);
            }
        }
        let sealed = self.chain.seal(&mut self.builder, &plan);
        let held = sealed.receipts.len();
        self.note(|| {
            format!(
                "block {} with {held} fee {}",
                sealed.block.number, sealed.base_fee
            )
        });
        for receipt in &sealed.receipts {
            self.check.mined(receipt.transaction.as_ref(), sealed.block);
        }
        self.schedule(BLOCK_MS, Job::Seal);
        self.gossip();
    }

    /// What one node has reaches the builder and the others, sooner or later.
    fn gossip(&mut self) {
        let state = Arc::clone(&self.chain.head().state);
        let base_fee = self.chain.base_fee_after(self.chain.head());
        let mut waiting: BTreeMap<B256, Arc<Transaction>> = BTreeMap::new();
        for endpoint in &self.endpoints {
            waiting.extend(
                endpoint
                    .pool
                    .transactions()
                    .map(|t| (t.hash, Arc::clone(t))),
            );
        }
        for transaction in waiting.into_values() {
            if self.quiet || self.rng.chance(600) {
                let _the_builders_own_affair = self.builder.submit(transaction, &state, base_fee);
            }
        }
    }

    pub fn follow(&mut self, endpoint: usize) {
        let (now, head) = (self.now_ms, self.chain.head().block.hash);
        let state = Arc::clone(&self.chain.head().state);
        let node = &mut self.endpoints[endpoint];
        if now >= node.lags_until_ms {
            node.view = head;
            node.pool.prune(&state);
        }
        let building = (now % BLOCK_MS) > 200 && self.flashblock.is_none();
        if endpoint == 0 && building && self.seed.is_multiple_of(2) {
            self.gossip();
            let plan = SealPlan {
                timestamp: self.chain_seconds(),
                withheld: self.withheld.keys().copied().collect(),
                room: (self.stuck_until_ms > now).then_some(0),
                ..SealPlan::default()
            };
            let preview = self.chain.preview(&self.builder, &plan);
            if !preview.receipts.is_empty() {
                self.flashblock = Some(Arc::new(preview));
            }
        }
        let pause = self.rng.between(100, 500);
        self.schedule(pause, Job::Follow(endpoint));
    }

    /// The newest blocks are replaced by others; what was in them comes again, in another order, later, or never.
    pub fn reorg(&mut self) {
        let head = self.chain.head().block.number;
        let most = (head - self.chain.first_height()).min(FINAL_DEPTH - 3);
        if most == 0 {
            return;
        }
        let floor = self.check.finalized;
        let depth = self
            .rng
            .between(1, most)
            .min(self.rng.between(1, 4))
            .min(head - floor);
        if depth == 0 {
            return;
        }
        let orphans = self.chain.unseal(depth as usize);
        self.flashblock = None;
        self.check.fault("reorg");
        let state = Arc::clone(&self.chain.head().state);
        let base_fee = self.chain.head().base_fee;
        let mut pool = Pool::new(PoolRules::GETH);
        for orphan in orphans {
            let odds = if self.stolen.contains(&orphan.hash) {
                900
            } else {
                100
            };
            if self.rng.chance(odds) {
                self.check.fault("orphan dropped");
                continue;
            }
            if self.rng.chance(250) {
                let until = self.now_ms + self.rng.between(2_000, 20_000);
                self.withheld.insert(orphan.hash, until);
            }
            let _its_own_affair = pool.submit(orphan, &state, base_fee);
        }
        for waiting in self.builder.transactions() {
            let _its_own_affair = pool.submit(Arc::clone(waiting), &state, base_fee);
        }
        self.builder = pool;
        let again = match self.rng.below(4) {
            0 => depth.saturating_sub(1),
            1 => depth + 1,
            _ => depth,
        };
        self.note(|| format!("reorg of {depth}, {again} in their place"));
        for index in 0..again {
            let plan = SealPlan {
                timestamp: self.chain_seconds() + index,
                other_gas: 80_000_000,
                room: self.rng.chance(400).then_some(0),
                withheld: self.withheld.keys().copied().collect(),
                ..SealPlan::default()
            };
            let sealed = self.chain.seal(&mut self.builder, &plan);
            for receipt in &sealed.receipts {
                self.check.mined(receipt.transaction.as_ref(), sealed.block);
            }
        }
    }

    pub fn watch(&mut self, p: usize) {
        let pause = self.rng.between(200, 700);
        self.schedule(pause, Job::Watch(p));
        if self.rng.chance(30) {
            self.processes[p].endpoint = self.rng.index(self.endpoints.len());
        }
        let endpoint = self.processes[p].endpoint;
        if self.node_fails(endpoint) {
            self.processes[p].endpoint = self.rng.index(self.endpoints.len());
            return;
        }
        let view = self.endpoints[endpoint].view;
        let head = Arc::clone(self.chain.block(view));
        let seen = std::mem::take(&mut self.processes[p].seen);
        // Who fell behind catches up with what the watcher keeps, which may be less than was missed.
        let fell_behind = !self.quiet && self.rng.chance(15);
        let window = if fell_behind {
            self.rng.between(1, 5)
        } else {
            256
        };
        let oldest = head.block.number.saturating_sub(window - 1);
        let fork = seen.iter().rposition(|block| {
            let there = self.chain.ancestor(view, block.number);
            block.number >= oldest && there.is_some_and(|there| there.block.hash == block.hash)
        });
        let gap = fork.is_none() && !seen.is_empty();
        if fell_behind && gap {
            self.check.fault("fell behind the chain");
        }
        let kept = fork.map_or(0, |index| index + 1);
        let newest = seen.last().map_or(0, |block| block.number);
        let mut now_seen = seen.clone();
        let mut events = Vec::new();
        let first = seen.is_empty();
        let next = match (fork, first) {
            (None, _) => {
                let kept = if first {
                    self.rng.between(0, 12)
                } else {
                    window - 1
                };
                let from = head.block.number.saturating_sub(kept);
                let from = from.max(self.chain.first_height());
                if let Some(oldest) = seen.first() {
                    events.push(Event::Reorg {
                        from: oldest.number,
                    });
                    now_seen.clear();
                }
                let before = (from..head.block.number)
                    .filter_map(|height| self.chain.ancestor(view, height));
                let before: Vec<BlockRef> = before.map(|sealed| sealed.block).collect();
                now_seen.extend(&before);
                events.push(Event::Ancestry(before));
                head.block.number
            }
            (Some(_), _) if kept == seen.len() => newest + 1,
            // A node that is only behind; a shorter chain shows itself by its next block.
            (Some(index), _) if seen[index].hash == head.block.hash => {
                self.processes[p].seen = seen;
                return;
            }
            (Some(index), _) => {
                let from = seen[index].number + 1;
                now_seen.truncate(kept);
                events.push(Event::Reorg { from });
                from
            }
        };
        for height in next..=head.block.number {
            let Some(sealed) = self.chain.ancestor(view, height) else {
                continue;
            };
            now_seen.push(sealed.block);
            events.push(Event::Block(crate::core::BlockSummary {
                block: sealed.block,
                timestamp: UnixSeconds(sealed.timestamp),
                base_fee: sealed.base_fee,
                gas_limit: self.chain.rules.gas_limit,
                transactions: sealed.receipts.iter().map(|r| r.transaction.hash).collect(),
            }));
        }
        self.processes[p].seen = now_seen;
        self.tell_chain(p, events, &head);
    }

    fn tell_chain(&mut self, p: usize, events: Vec<Event>, head: &Sealed) {
        if events.is_empty() {
            return;
        }
        self.hear_all(p, events);
        if self.rng.chance(400) {
            let first = self.chain.first_height();
            let safe = head.block.number.saturating_sub(SAFE_DEPTH).max(first);
            let finalized = head.block.number.saturating_sub(FINAL_DEPTH).max(first);
            self.check.finalized = self.check.finalized.max(finalized);
            let levels = Event::Levels {
                safe: Some(safe),
                finalized: Some(finalized),
            };
            self.hear(p, levels);
        }
        if self.rng.chance(100) {
            let tip = u128::from(self.rng.below(20_000_000));
            self.hear(p, Event::Tip(tip));
        }
    }
}
