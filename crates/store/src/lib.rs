//! Where teller keeps what it must not forget: the [`Ledger`] of accepted payments and signed transactions, and the
//! [`Reservations`] that verify grants.
//!
//! Each contract has a production and an embedded implementation, and one suite of tests that runs against all of
//! them. Calls that both ledgers make in the same words are in `sql/`: those files are a part of each ledger, and what
//! differs is in `postgres/dialect.rs` and `sqlite/dialect.rs`. Nothing here talks to a chain, and no transaction is held open across a call to a node.
#![allow(
    clippy::duplicate_mod,
    reason = "the files in sql/ are compiled once for each ledger"
)]

mod authorizations;
mod boundary;
mod catalogue;
mod claiming;
mod error;
mod group;
mod holds;
mod ledger;
mod listing;
mod memory;
mod migrations;
mod postgres;
mod pruning;
mod records;
mod redis;
mod reservations;
mod resolving;
mod rows;
mod sqlite;
mod stores;

pub use boundary::Boundary;
pub use catalogue::{
    Catalogue, CatalogueBounds, CataloguePage, CatalogueQuery, ListedTerms, Listing, ListingKind,
    NewListing, SearchWords,
};
pub use error::{StoreError, StoreResult};
pub use ledger::Ledger;
pub use memory::MemoryReservations;
pub use postgres::PostgresLedger;
pub use records::{
    AcceptOutcome, AuditSlot, ClaimOutcome, Duty, IdempotencyOutcome, Lane, LaneRecovery, LaneView,
    MadeTopUp, Milestone, NewSettlement, NewSlot, OpenSlotOutcome, SettlementEvent, SettlementPage,
    SettlementQuery, Settlers, SlotClosure, Spending, Success, TopUp, UnfinalSlot, Wanted,
};
pub use redis::RedisReservations;
pub use reservations::{HoldPurpose, HoldVersion, Reservations, ReserveOutcome, ReserveRequest};
pub use sqlite::SqliteLedger;
pub use stores::{
    LedgerUrl, ReservationsUrl, Stores, check_ledger, check_reservations, migrate, open_ledger,
    open_ledger_for_orders, open_ledger_read_only,
};
