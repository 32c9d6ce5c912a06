//! What the worlds of one thread share, and how hard each of them is.

use std::future::Future;
use std::sync::Arc;

use alloy_primitives::keccak256;
use teller_chain::LocalSigner;
use teller_store::{MemoryReservations, SqliteLedger, StoreResult};

/// How often a read is tried.
const READS: u32 = 20;

/// What every simulation of a thread shares: keys, a runtime, and a ledger in which each seed has a network of its own.
pub struct Stage {
    pub runtime: tokio::runtime::Runtime,
    pub ledger: Arc<SqliteLedger>,
    pub reservations: Arc<MemoryReservations>,
    pub signers: Vec<LocalSigner>,
    _directory: tempfile::TempDir,
}

impl Stage {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let memory = std::path::Path::new("/dev/shm");
        let directory = match memory.is_dir() {
            true => tempfile::tempdir_in(memory).unwrap(),
            false => tempfile::tempdir().unwrap(),
        };
        let path = directory.path().join("ledger.db");
        let (ledger, reservations) = runtime.block_on(async {
            let ledger = SqliteLedger::open(path).await.unwrap();
            let reservations = MemoryReservations::open(&ledger).await.unwrap();
            (Arc::new(ledger), Arc::new(reservations))
        });
        let signers = (0..4_u8)
            .map(|index| LocalSigner::from_hex(&keccak256([index]).to_string()).unwrap())
            .collect();
        Self {
            runtime,
            ledger,
            reservations,
            signers,
            _directory: directory,
        }
    }
}

impl Stage {
    /// A read of the ledger. On a machine that is short of time a connection may not become free in time, which says
    /// nothing about the seed: it is read again.
    pub fn read<T, F>(&self, read: impl Fn() -> F) -> T
    where
        F: Future<Output = StoreResult<T>>,
    {
        for _ in 0..READS {
            match self.runtime.block_on(read()) {
                Err(error) if error.is_retryable() => {}
                done => return done.unwrap(),
            }
        }
        panic!("the ledger cannot be read")
    }
}

/// How hard a seed is, each in a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Odds {
    /// A ledger write is lost before it is made.
    pub write_lost: u64,
    /// It is made, and its answer is lost.
    pub answer_lost: u64,
    /// A node does not answer, or with an error.
    pub node_fails: u64,
    /// An answer comes late, or twice.
    pub late: u64,
    /// A process crashes, pauses, loses its leases; a reorg; and so on, at each look of the fault injector.
    pub strike: u64,
}
