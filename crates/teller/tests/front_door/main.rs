//! teller from outside: the real binary, a real chain, real stores, REST, gRPC and the command line.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers may fail as loudly as the test itself"
)]

mod approvals;
mod bazaar;
mod budgets;
mod commands;
mod crowd;
mod delegations;
mod doors;
mod empty;
mod gas;
mod gifts;
mod grpc;
mod grpc_ways;
mod kill;
mod messages;
mod nodes;
mod operator;
mod permits;
mod receipts;
mod refusals;
mod settle;
#[path = "../support/mod.rs"]
mod support;
mod times;
mod unexplained;
mod upto;
mod verify;
mod wallets;

use support::ways;
